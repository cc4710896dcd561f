// Filtering and sorting of tables, and the ranking by adjustable weights.
"use strict";

const textFilter = byId("text-filter");
const outcomeFilter = byId("outcome-filter");
const filterText = () => (textFilter ? textFilter.value.trim().toLowerCase() : "");

function applyFilters() {
  const text = filterText();
  const outcome = outcomeFilter.value;
  let shown = 0;
  const rows = all("tr[data-search]");
  for (const row of rows) {
    const outcomes = row.dataset.outcomes;
    const keeps = !outcome || outcomes === undefined || outcomes.split("|").includes(outcome);
    row.hidden = !(keeps && row.dataset.search.includes(text));
    if (outcomes !== undefined && !row.hidden) shown += 1;
  }
  for (const table of all("table.matrix")) {
    table.parentElement.hidden = !table.querySelector("tbody tr:not([hidden])");
  }
  const total = rows.filter((row) => row.dataset.outcomes !== undefined).length;
  byId("shown").textContent = `${shown} of ${total} candidates`;
  document.dispatchEvent(new Event("filtered"));
}

function cellKey(cell) {
  const key = cell.dataset.sort ?? cell.textContent;
  const number = key === "" ? NaN : Number(key);
  return {key, number, missing: cell.dataset.sort === ""};
}

// Cells without a value are last in both directions.
function compare(a, b, sign) {
  if (a.missing !== b.missing) return a.missing ? 1 : -1;
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return sign * (a.number - b.number);
  return sign * a.key.localeCompare(b.key, "en", {numeric: true});
}

function sortTable(head, ascending) {
  const table = head.closest("table");
  const column = head.cellIndex;
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [cellKey(row.cells[column]), row]);
  keyed.sort(([a], [b]) => compare(a, b, ascending ? 1 : -1));
  body.append(...keyed.map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

for (const button of all("table.sortable thead button")) {
  const head = button.closest("th");
  button.addEventListener("click", () =>
    sortTable(head, head.getAttribute("aria-sort") !== "ascending"));
}

// The score of each candidate is the weighted sum of its axes. A candidate without a value on an
// axis that has a weight has no score and no rank.
function rank(section) {
  const weights = all("input[data-axis]", section).map((input) => Number(input.value));
  const rows = all("tbody tr", section);
  const scored = rows.map((row) => {
    let score = weights.some((weight) => weight > 0) ? 0 : NaN;
    all("td.axis", row).forEach((cell, axis) => {
      if (weights[axis] > 0) score += cell.dataset.sort === "" ? NaN : weights[axis] * cell.dataset.sort;
    });
    return {row, score};
  });
  for (const {row, score} of scored) {
    const has = !Number.isNaN(score);
    const place = has ? 1 + scored.filter((other) => other.score > score).length : "";
    const scoreCell = row.querySelector(".score");
    const rankCell = row.querySelector(".rank");
    scoreCell.dataset.sort = has ? score : "";
    scoreCell.textContent = has ? score.toFixed(3) : "–";
    rankCell.dataset.sort = place;
    rankCell.textContent = has ? place : "–";
  }
  sortTable(all("thead th", section)[1], true);
  const best = all("tbody tr", section).find(
    (row) => row.dataset.eligible === "true" && row.querySelector(".rank").dataset.sort !== "");
  section.querySelector(".best").textContent = best ? best.cells[0].textContent : "none";
}

for (const input of all("input[data-axis]")) {
  input.addEventListener("input", () => {
    input.parentElement.querySelector("output").textContent = String(Number(Number(input.value).toPrecision(3)));
    rank(input.closest(".ranking"));
  });
}

if (textFilter) {
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  textFilter.addEventListener("input", applyFilters);
  outcomeFilter.addEventListener("change", applyFilters);
  applyFilters();
}
