"use strict";
// Sums up a run: the figures at the top, and the tables that are shown while no episode is open.

/** Return the figures of some rows of the index. */
function figures(rows) {
  const mean = (value) => rows.reduce((sum, row) => sum + (Number(value(row)) || 0), 0) / Math.max(1, rows.length);
  return {
    episodes: rows.length,
    acc: mean((row) => row.solved),
    score: mean((row) => row.score),
    turns: mean((row) => row.turns),
    reward: mean((row) => row.reward),
  };
}

function fillStats(holder, rows) {
  const sum = figures(rows);
  const policies = new Set(rows.map((row) => row.policy));
  const stats = [
    ["Episodes", sum.episodes.toLocaleString("en")],
    ["Acc", percent(sum.acc)],
    ["Score", percent(sum.score)],
    ["Mean turns", fixed(sum.turns)],
    ["Mean reward", signed(sum.reward)],
    policies.size === 1 ? ["Policy", [...policies][0]] : ["Policies", policies.size],
  ];
  holder.replaceChildren(
    ...stats.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

/** Return the tables of a run: by grid and level, and by kind of error. Rows lead to their episodes. */
function overview(rows, narrowTo) {
  const groups = groupBy(rows, (row) => JSON.stringify([row.grid, row.level]));
  const kinds = new Map();
  for (const row of rows) {
    for (const [kind, count] of Object.entries(row.errors)) {
      const sum = kinds.get(kind) ?? { turns: 0, episodes: 0 };
      kinds.set(kind, { turns: sum.turns + count, episodes: sum.episodes + 1 });
    }
  }
  const levels = [...groups.entries()]
    .map(([key, members]) => [...JSON.parse(key), figures(members)])
    .sort((first, second) => compare(first[0], second[0]) || compare(first[1], second[1]));
  return [
    element("h2", { id: "episode-title", tabindex: -1 }, "Overview"),
    table(
      `Results by ${groupNames().join(" and ").toLowerCase()}`,
      [...groupNames(), "Episodes", "Acc", "Score", "Turns", "Reward"],
      [2, 4, 5, 6],
      levels.map(([grid, level, sum]) => [
        grid,
        element("button.link", { type: "button", click: () => narrowTo({ grid, level }) }, levelName(level) || "any"),
        sum.episodes.toLocaleString("en"),
        bar(sum.acc),
        percent(sum.score),
        fixed(sum.turns),
        signed(sum.reward),
      ]),
    ),
    kinds.size === 0
      ? element("p.quiet", {}, "No turn ended in an error.")
      : table(
          "Errors",
          ["Kind", "Turns", "Episodes"],
          [1, 2],
          [...kinds.entries()]
            .sort((first, second) => second[1].turns - first[1].turns)
            .map(([kind, sum]) => [
              element("button.link", { type: "button", click: () => narrowTo({ error: `=${kind}` }) }, kind),
              sum.turns.toLocaleString("en"),
              sum.episodes.toLocaleString("en"),
            ]),
        ),
    behaviourTable(rows, narrowTo),
    element("p.quiet", {}, "Choose an episode from the list, or press j."),
  ];
}

/** Return the table of behaviours, each with the turn of its first example; null where none can be seen. */
function behaviourTable(rows, narrowTo) {
  const known = Object.entries(DATA.behaviours).filter(([name]) => rows.some((row) => name in row.behaviours));
  if (!known.length) return null;
  return table(
    "Behaviours",
    ["Episodes that", "Episodes", "Fraction", "First example"],
    [1],
    known.map(([name, title]) => {
      const among = rows.filter((row) => name in row.behaviours);
      const shown = among.filter((row) => row.behaviours[name]);
      return [
        element("button.link", { type: "button", click: () => narrowTo({ behaviour: `=${name}` }) }, title),
        shown.length.toLocaleString("en"),
        bar(shown.length / among.length),
        shown.length ? example(shown[0], name) : null,
      ];
    }),
  );
}

/** Return a link to the turn in which an episode first shows a behaviour. */
function example(row, name) {
  const turn = row.behaviours[name];
  return element("a", { href: `#${encodeURIComponent(row.id)}/${turn}` }, `${row.id}, turn ${turn}`);
}

function bar(share) {
  const filled = element("span.bar", { "aria-hidden": "true" });
  filled.style.setProperty("--share", percent(share));
  return element("span.with-bar", {}, filled, percent(share));
}

/** Return a table; the columns in `numeric` are aligned to the right. */
function table(title, heads, numeric, rows) {
  const kind = (column) => ({ class: numeric.includes(column) ? "number" : null });
  return element(
    "div.table",
    { role: "region", "aria-label": title, tabindex: 0 },
    element(
      "table",
      {},
      element("caption", {}, title),
      element("thead", {}, element("tr", {}, heads.map((head, column) => element("th", { scope: "col", ...kind(column) }, head)))),
      element("tbody", {}, rows.map((cells) => element("tr", {}, cells.map((cell, column) => element("td", kind(column), cell))))),
    ),
  );
}

function groupBy(rows, key) {
  const groups = new Map();
  for (const row of rows) {
    const group = groups.get(key(row));
    if (group) group.push(row);
    else groups.set(key(row), [row]);
  }
  return groups;
}

const COLLATOR = new Intl.Collator("en", { numeric: true });

/** Compare two values of a column: numbers by size, texts with the numbers in them by size, null first. */
function compare(first, second) {
  if (typeof first === "number" && typeof second === "number") return first - second;
  return COLLATOR.compare(String(first ?? ""), String(second ?? ""));
}
