"use strict";
// Ties the page together: which episode is open follows from the address, and keys step through episodes and turns.

const NARROW = matchMedia("(max-width: 860px)");
let open = -1; // Place of the open episode in the index, -1 for none.
let turn = 0; // The turn that was stepped to, from 1; 0 for none.

/** Read the address: "#id", "#id/turn", "#/" for the list or "#/overview". */
function route() {
  let address = location.hash.slice(1);
  const [id, number] = address.split("/");
  try {
    address = decodeURIComponent(id);
  } catch {
    address = id;
  }
  const place = DATA.places.get(address) ?? -1;
  hideTip();
  document.body.dataset.view = place >= 0 ? "episode" : number === "overview" ? "overview" : "list";
  if (place < 0 || place !== open) {
    open = place;
    turn = 0;
    showMain(address);
  }
  if (place >= 0) goToTurn(Number.parseInt(number, 10) || 0);
}

function showMain(address) {
  const main = byId("main");
  if (open >= 0) {
    main.replaceChildren(...flat(episodeView(open)));
    byId("previous").disabled = LIST.neighbour(open, -1) === null;
    byId("next").disabled = LIST.neighbour(open, 1) === null;
  } else if (address) {
    main.replaceChildren(element("p.quiet", { role: "alert" }, `There is no episode "${address}" in this page.`));
    document.body.dataset.view = "overview";
  } else {
    main.replaceChildren(...flat(overview(DATA.rows, (choice) => {
      LIST.narrowTo(choice);
      if (NARROW.matches) location.hash = "#/";
    })));
  }
  LIST.mark(open);
  main.scrollTop = 0;
  if (document.body.dataset.view !== "list") scrollTo(0, 0);
  document.title = (open >= 0 ? `${DATA.rows[open].id} \u2013 ` : "") + TITLE;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null);
}

function goToTurn(number) {
  const cards = document.querySelectorAll(".turn");
  turn = Math.min(Math.max(number, 0), cards.length);
  document.querySelector('.film [aria-current="step"]')?.removeAttribute("aria-current");
  if (turn === 0) return;
  document.querySelectorAll("a.frame")[turn - 1]?.setAttribute("aria-current", "step");
  cards[turn - 1].scrollIntoView({ block: "start" });
  cards[turn - 1].focus({ preventScroll: true });
}

function stepEpisode(step) {
  const place = LIST.neighbour(open, step);
  if (place !== null) location.hash = `#${encodeURIComponent(DATA.rows[place].id)}`;
}

function stepTurn(step) {
  if (open < 0) return;
  const number = Math.min(Math.max(turn + step, 0), DATA.rows[open].turns);
  const id = encodeURIComponent(DATA.rows[open].id);
  history.replaceState(null, "", number ? `#${id}/${number}` : `#${id}`);
  goToTurn(number);
  if (number === 0) byId("main").scrollTop = 0;
}

const KEYS = {
  j: () => stepEpisode(1),
  k: () => stepEpisode(-1),
  ArrowRight: () => stepTurn(1),
  ArrowLeft: () => stepTurn(-1),
  "/": () => {
    if (NARROW.matches && open >= 0) location.hash = "#/";
    byId("search").focus();
    byId("search").select();
  },
  Escape: () => {
    if (document.activeElement === byId("search")) byId("search").blur();
    else if (open >= 0) location.hash = "#/";
  },
  "?": () => byId("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || byId("help").open) return;
  const field = event.target.closest?.("input, select, textarea");
  if (field && event.key !== "Escape") return;
  if (event.key !== "Escape" && !byId("keys-on").checked) return;
  if (!Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

const TITLE = document.title;
byId("help-button").addEventListener("click", () => byId("help").showModal());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("scroll", followTip, { capture: true, passive: true });
fillStats(byId("stats"), DATA.rows);
LIST.setUp(() => {
  if (open < 0) return;
  LIST.mark(open);
  byId("previous").disabled = LIST.neighbour(open, -1) === null;
  byId("next").disabled = LIST.neighbour(open, 1) === null;
});
addEventListener("hashchange", route);
route();
document.documentElement.dataset.ready = String(Math.round(performance.now())); // Milliseconds from the start of loading.
