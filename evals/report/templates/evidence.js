// The evidence of a case, made when it is opened or printed.
"use strict";

const dialog = byId("evidence");
const textOf = (index) => report.texts[index];

function item(values) {
  const answers = ["expected", "baseline", "candidate"].filter((name) => name in values);
  const place = [values.place, values.loss].filter(Boolean).join(", ");
  return element("article", {class: "item"},
    element("h4", {}, place),
    element("pre", {class: "prompt"}, textOf(values.prompt)),
    element("div", {class: "answers"}, ...answers.map((name) =>
      element("div", {}, element("h5", {}, name), element("pre", {}, textOf(values[name]))))));
}

function items(cell) {
  if (!cell.itemsTotal) return [];
  const shown = (cell.items || []).length;
  const count = cell.itemsTotal.toLocaleString("en");
  const which = shown === cell.itemsTotal ? `All ${count}` : `The worst ${shown} of ${count}`;
  return [element("h3", {}, `${which} items that got worse`), ...(cell.items || []).map(item)];
}

function attribution(found) {
  if (!found) return [];
  const modules = found.modules || [];
  return [
    element("h3", {}, "Where the damage is"),
    ...(found.lines || []).map((line) => element("p", {}, line)),
    ...(modules.length ? [facts(modules)] : []),
  ];
}

// Folded if the facts above hold the same; an error has nothing else.
function message(cell) {
  if (!cell.message) return [];
  const folded = element("details", {}, element("summary", {}, "Message of the case"),
    element("pre", {}, cell.message));
  folded.open = !cell.value;
  return [folded];
}

function evidence(cell) {
  return [
    facts([
      ["outcome", element("span", {class: cell.kind}, `${cell.mark} ${cell.word}`)],
      ["promised", cell.promise],
      ["estimate", cell.value],
      ["interval", cell.interval],
      ["limit", cell.limit],
      ["items", cell.size],
      ["baseline", cell.baselineValue],
      ["candidate", cell.candidateValue],
      ["tier", cell.tier],
      ["known failure", cell.known],
      ["not judged", cell.notJudged],
      ["unreliable", cell.unreliable],
      ["stored as", cell.form],
      ["run on", cell.kernel],
    ]),
    ...(cell.lines || []).map((line) => element("p", {}, line)),
    ...attribution(cell.attribution),
    ...(cell.rerun ? [element("h3", {}, "Rerun"), element("pre", {}, cell.rerun)] : []),
    ...message(cell),
    ...items(cell),
  ];
}

const addressOf = (cell) =>
  `#${encodeURIComponent(cell.candidate)}:${encodeURIComponent(cell.metric)}`;

function trendButton(cell) {
  if (cell.trend === undefined) return null;
  const follow = () => {
    dialog.close();
    showTrend(cell.trend);
  };
  return element("button", {type: "button", id: "follow-trend", click: follow}, "Show the trend");
}

function openEvidence(cell) {
  const close = element("button", {type: "button", click: () => dialog.close()}, "Close");
  dialog.replaceChildren(
    element("header", {},
      element("h2", {id: "evidence-heading"}, `${cell.candidate}: ${cell.title}`), close),
    ...[trendButton(cell)].filter(Boolean),
    ...evidence(cell));
  dialog.showModal();
  dialog.scrollTop = 0;
  history.replaceState(null, "", addressOf(cell));
}

function openFromAddress() {
  const wanted = report.cells.find((cell) => addressOf(cell) === location.hash);
  if (wanted && !dialog.open) openEvidence(wanted);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-cell]");
  if (button) openEvidence(report.cells[Number(button.dataset.cell)]);
  else if (event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () =>
  history.replaceState(null, "", location.pathname + location.search));
window.addEventListener("hashchange", openFromAddress);
openFromAddress();

window.addEventListener("beforeprint", () => {
  const place = byId("print-evidence");
  if (place.childElementCount) return;
  const failed = report.cells.filter((cell) => cell.kind === "failed");
  if (!failed.length) return;
  place.append(element("h2", {}, "Evidence of the failures"), ...failed.map((cell) =>
    element("article", {}, element("h3", {}, `${cell.candidate}: ${cell.title}`),
      ...evidence(cell))));
});
