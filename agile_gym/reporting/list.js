"use strict";
// The list of episodes: filters, search and order.

const SORTS = {
  played: ["as played", (row, place) => place],
  id: ["id", (row) => row.id],
  reward: ["reward", (row) => row.reward],
  score: ["score", (row) => row.score],
  turns: ["turns", (row) => row.turns],
  errors: ["errors", (row) => errorCount(row)],
  seconds: ["time", (row) => row.seconds],
  tokens: ["tokens", (row) => row.tokens],
};
const SELECTS = ["grid", "level", "result", "error", "policy", "behaviour"];

/** Return what the groups of episodes are called: grids and levels, or, of other environments, names and labels. */
function groupNames() {
  return DATA.rows.every((row) => /^\d+x\d+$/.test(row.grid)) ? ["Grid", "Level"] : ["Environment", "Label"];
}

function errorCount(row) {
  return Object.values(row.errors).reduce((sum, count) => sum + count, 0);
}

const LIST = (() => {
  const items = DATA.rows.map(listItem);
  let shown = []; // Places in the index, in the order of the list.
  let descending = false;
  let waiting = null;

  function listItem(row) {
    const errors = errorCount(row);
    return element(
      "li",
      {},
      element(
        "a.row",
        { href: `#${encodeURIComponent(row.id)}`, class: row.solved ? "row good" : "row bad" },
        element("span.sign", { title: row.solved ? "solved" : "not solved" }, row.solved ? "\u2713" : "\u2717"),
        element("span.row-id", {}, row.id),
        element("span.row-reward", { title: "reward" }, signed(row.reward)),
        element(
          "span.row-facts",
          {},
          [row.grid, levelName(row.level), counted(row.turns, "turn"), `score ${percent(row.score, 0)}`]
            .filter((fact) => fact)
            .join(" \u00b7 "),
        ),
        errors ? element("span.row-errors", { title: Object.keys(row.errors).join(", ") }, counted(errors, "error")) : null,
      ),
    );
  }

  function options(select, pairs) {
    byId(`filter-${select}`).replaceChildren(...pairs.map(([value, name]) => element("option", { value }, name)));
  }

  function values(key) {
    return [...new Set(DATA.rows.map((row) => row[key]))].filter((value) => value !== null).sort(compare);
  }

  /** Fill the choices with what the run holds. Values begin with "=", so that no name can be taken for another choice. */
  function setUp(onChange) {
    const named = (key, name = String) => [["", "all"], ...values(key).map((value) => [`=${value}`, name(value)])];
    ["grid", "level"].forEach((key, place) => {
      byId(`filter-${key}`).labels[0].firstChild.data = `${groupNames()[place]} `;
    });
    options("grid", named("grid"));
    options("level", named("level", levelName));
    options("policy", named("policy"));
    options("result", [["", "all"], ["solved", "solved"], ["unsolved", "not solved"], ["truncated", "turns ran out"]]);
    const kinds = [...new Set(DATA.rows.flatMap((row) => Object.keys(row.errors)))].sort(compare);
    options("error", [["", "all"], ["any", "any error"], ["none", "no error"], ...kinds.map((kind) => [`=${kind}`, kind])]);
    const behaviours = Object.keys(DATA.behaviours).filter((name) => DATA.rows.some((row) => name in row.behaviours));
    options("behaviour", [["", "all"], ...behaviours.map((name) => [`=${name}`, DATA.behaviours[name]])]);
    byId("behaviour-label").hidden = behaviours.length === 0;
    byId("policy-label").hidden = values("policy").length < 2;
    byId("filters").classList.toggle("one-policy", values("policy").length < 2);
    byId("sort").replaceChildren(...Object.entries(SORTS).map(([key, [name]]) => element("option", { value: key }, name)));
    const changed = () => {
      apply();
      onChange();
    };
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    for (const select of [...SELECTS.map((name) => byId(`filter-${name}`)), byId("sort")]) {
      select.addEventListener("change", changed);
    }
    byId("filters").addEventListener("reset", () => {
      descending = false;
      setTimeout(changed); // The fields are empty only after this event.
    });
    byId("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(changed, 120);
    });
    byId("direction").addEventListener("click", () => {
      descending = !descending;
      changed();
    });
    apply();
  }

  function matches(row, place, chosen, text) {
    if (chosen.grid && chosen.grid !== `=${row.grid}`) return false;
    if (chosen.level && chosen.level !== `=${row.level}`) return false;
    if (chosen.policy && chosen.policy !== `=${row.policy}`) return false;
    if (chosen.result === "solved" && !row.solved) return false;
    if (chosen.result === "unsolved" && row.solved) return false;
    if (chosen.result === "truncated" && !row.truncated) return false;
    if (chosen.error === "any" && errorCount(row) === 0) return false;
    if (chosen.error === "none" && errorCount(row) > 0) return false;
    if (chosen.error.startsWith("=") && !Object.hasOwn(row.errors, chosen.error.slice(1))) return false;
    if (chosen.behaviour && !row.behaviours[chosen.behaviour.slice(1)]) return false;
    return !text || DATA.contains(place, text);
  }

  /** Show the rows that the filters let through, in the chosen order. */
  function apply() {
    const chosen = Object.fromEntries(SELECTS.map((name) => [name, byId(`filter-${name}`).value]));
    const text = byId("search").value.trim().toLowerCase();
    const key = SORTS[byId("sort").value][1];
    shown = DATA.rows.map((_, place) => place).filter((place) => matches(DATA.rows[place], place, chosen, text));
    const keys = new Map(shown.map((place) => [place, key(DATA.rows[place], place)]));
    shown.sort((first, second) => (compare(keys.get(first), keys.get(second)) || first - second) * (descending ? -1 : 1));
    byId("direction").textContent = descending ? "\u2193" : "\u2191";
    byId("direction").setAttribute("aria-pressed", String(descending));
    const list = byId("rows");
    list.replaceChildren(...shown.map((place) => items[place]));
    const rows = shown.map((place) => DATA.rows[place]);
    const all = shown.length === DATA.rows.length;
    byId("found").textContent = all
      ? counted(shown.length, "episode")
      : `${shown.length.toLocaleString("en")} of ${counted(DATA.rows.length, "episode")}` +
        (shown.length ? ` \u00b7 Acc ${percent(figures(rows).acc)}` : "");
  }

  /** Choose filters from outside; those that are not named are cleared. */
  function narrowTo({ grid, level, error = "", behaviour = "" }) {
    byId("filters").reset();
    if (grid !== undefined) byId("filter-grid").value = `=${grid}`;
    if (level !== undefined && level !== null) byId("filter-level").value = `=${level}`;
    byId("filter-error").value = error;
    byId("filter-behaviour").value = behaviour;
  }

  /** Mark the row of the open episode, or none for -1. */
  function mark(place) {
    byId("rows").querySelector('[aria-current="true"]')?.removeAttribute("aria-current");
    if (place < 0) return;
    const row = items[place].firstElementChild;
    row.setAttribute("aria-current", "true");
    if (items[place].isConnected) items[place].scrollIntoView({ block: "nearest" });
  }

  /** Return the place of the episode so many rows from another, or of the first (last) one; null at an end. */
  function neighbour(place, step) {
    const row = shown.indexOf(place);
    if (row < 0) return shown.length ? shown[step > 0 ? 0 : shown.length - 1] : null;
    return shown[row + step] ?? null;
  }

  return { setUp, narrowTo, mark, neighbour };
})();
