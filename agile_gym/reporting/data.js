"use strict";
// Reads the blocks of JSON that the page holds: the index at once, an episode and its images when they are shown.

const DATA = (() => {
  const read = (block) => JSON.parse(block.textContent);
  const blocks = (kind) => [...document.querySelectorAll(`script[type="application/json"][data-kind="${kind}"]`)];
  const [index] = blocks("index").map(read);
  const episodes = blocks("episode");
  const images = blocks("images");
  const firsts = images.map((block) => Number(block.dataset.first));
  const tokens = new Map(blocks("tokens").map((block) => [Number(block.dataset.episode), block]));
  const places = new Map(index.rows.map((row, place) => [row.id, place]));
  const haystacks = [];
  let opened = { place: -1, record: null };
  let openImages = new Map();
  let words = null;

  /** Return everything about the episode at a place of the index; the last one is kept. */
  function episode(place) {
    if (opened.place !== place) {
      opened = { place, record: read(episodes[place]) };
      openImages = new Map();
    }
    return opened.record;
  }

  /** Return an image: {url, width, height}, with the size of the original. */
  function image(number) {
    let block = firsts.length - 1;
    while (firsts[block] > number) block -= 1;
    if (!openImages.has(block)) openImages.set(block, read(images[block]));
    const [width, height, file] = openImages.get(block)[number - firsts[block]];
    return { url: `data:${index.mime};base64,${file}`, width, height };
  }

  /** Return the segments of tokens of an episode, or null if none were recorded. */
  function segments(place) {
    return tokens.has(place) ? read(tokens.get(place)) : null;
  }

  /** Return {texts, imageTokens}: the texts of tokens by id, and the set of ids that stand for images. */
  function vocabulary() {
    if (words === null) {
      const stored = read(blocks("vocabulary")[0]);
      words = { texts: stored.texts, imageTokens: new Set(stored.image_tokens) };
    }
    return words;
  }

  /** Tell whether an episode holds a text, in lower case, in its id, policy, turns, feedback or errors. */
  function contains(place, text) {
    if (haystacks[place] === undefined) {
      const record = read(episodes[place]);
      const parts = [record.id, record.policy];
      for (const turn of record.turns) parts.push(turn.text, turn.feedback, turn.error ?? "");
      haystacks[place] = parts.join("\n").toLowerCase();
    }
    return haystacks[place].includes(text);
  }

  return { rows: index.rows, behaviours: index.behaviours, places, episode, image, segments, vocabulary, contains };
})();
