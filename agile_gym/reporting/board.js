"use strict";
// Draws boards and images. A board is composed of the pieces, so that each is stored once, whatever the number of turns.

const FEW = 5; // Boards with more rows or columns show names and marks only where they are drawn large.
const LONGEST_CAPTION = 48; // What stands before an image on its line is its caption, unless it is longer.

/**
 * Return a board.
 * @param {Object} record The episode.
 * @param {Array} tiles [piece, angle] of each place.
 * @param {Object} options `marks`: whether tiles in their place are marked; `large`; `gap`, `size`: in pixels, as seen.
 */
function board(record, tiles, { marks = false, large = false, gap = null, size = null } = {}) {
  const grid = element("div.board", { role: "img", "aria-label": boardLabel(record, tiles) });
  const first = record.pieces.length ? DATA.image(record.pieces[0]) : { width: 1, height: 1 };
  grid.style.gridTemplateColumns = `repeat(${record.cols}, minmax(0, 1fr))`;
  const fine = Math.max(record.rows, record.cols) > FEW;
  grid.style.columnGap = gap ? `${(100 * gap[0]) / size[0]}%` : fine ? "0.5px" : "1.5px";
  grid.style.rowGap = gap ? `${(100 * gap[1]) / size[1]}%` : fine ? "0.5px" : "1.5px";
  grid.style.aspectRatio = size
    ? `${size[0]} / ${size[1]}`
    : `${first.width * record.cols} / ${first.height * record.rows}`;
  grid.classList.toggle("fine", fine);
  tiles.forEach(([piece, angle], place) => {
    const tile = element("span.tile");
    if (record.pieces.length) {
      const picture = element("img", { src: DATA.image(record.pieces[piece]).url, alt: "" });
      if (angle) picture.style.transform = `rotate(${angle}deg)`;
      tile.append(picture);
    } else {
      tile.classList.add("bare");
    }
    if (large || !fine) tile.append(element("span.name", {}, record.names[piece]));
    if (marks && (large || !fine) && inPlace(record, tiles, place)) tile.classList.add("right");
    grid.append(tile);
  });
  return grid;
}

function inPlace(record, tiles, place) {
  const right = record.solution_tiles;
  return right !== null && right[place][0] === tiles[place][0] && right[place][1] === tiles[place][1];
}

/** Return such as "2/4 in place", or "" where the solution is not known. */
function placeCount(record, tiles) {
  if (record.solution_tiles === null) return "";
  return `${tiles.filter((_, place) => inPlace(record, tiles, place)).length}/${tiles.length} in place`;
}

function boardLabel(record, tiles) {
  const names = tiles.map(([piece, angle]) => record.names[piece] + (angle ? ` turned ${angle} degrees` : ""));
  const count = placeCount(record, tiles);
  return `Board: ${names.join(" ")}${count ? `; ${count}` : ""}`;
}

function sameTiles(first, second) {
  return JSON.stringify(first) === JSON.stringify(second);
}

/** Return an image that the model saw, which may be a board, with its size as a caption. */
function seenImage(record, reference, caption) {
  let picture, width, height;
  if (reference.board) {
    [width, height] = reference.size;
    picture = board(record, reference.board, { gap: reference.gap, size: reference.size });
    picture.classList.add("seen-board"); // Names show on hover only, as the model did not see them.
  } else {
    const stored = DATA.image(reference.image);
    ({ width, height } = stored);
    picture = element("img.seen", { src: stored.url, alt: caption, width, height });
  }
  return element(
    "figure.picture",
    {},
    picture,
    element("figcaption", {}, caption, " ", element("span.size", {}, `${width}\u00d7${height}`)),
  );
}

/**
 * Return a text with its images where its marks are; images without a mark follow at the end.
 * The caption of an image is what stands before its mark on the line.
 */
function textWithImages(record, text, references) {
  const parts = text.split("<image>");
  const blocks = [];
  let strip = null;
  parts.forEach((part, number) => {
    const last = number === parts.length - 1;
    let lineStart = last ? part.length : part.lastIndexOf("\n") + 1;
    if (part.length - lineStart > LONGEST_CAPTION) lineStart = part.length;
    const shown = part.slice(0, lineStart).replace(/^\n+|\n+$/g, "");
    if (shown.trim()) {
      blocks.push(element("p.said", {}, readable(shown)));
      strip = null;
    }
    if (last) return;
    const caption = part.slice(lineStart).replace(/[:\s]+$/, "") || `Image ${number + 1}`;
    if (strip === null) blocks.push((strip = element("div.pictures")));
    strip.append(
      references[number]
        ? seenImage(record, references[number], caption)
        : element("p.missing", {}, `${caption}: image not kept`),
    );
  });
  const rest = references.slice(parts.length - 1);
  if (rest.length) {
    blocks.push(element("div.pictures", {}, rest.map((reference) => seenImage(record, reference, "Image"))));
  }
  return blocks;
}
