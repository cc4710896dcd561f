// Figures, drawn with Plotly from their data when they come into view.
"use strict";

// Plotly interprets some HTML in texts.
const escaped = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isNarrow = () => window.innerWidth < 600;
// The buttons are listed, because one of Plotly's own uploads the figure to a server.
const BUTTONS = ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"];
const settings = () => ({
  responsive: true, displaylogo: false, displayModeBar: isNarrow() ? false : "hover",
  modeBarButtons: [BUTTONS], plotlyServerURL: "",
});

// Only points of candidates that match the filter of the page.
function filtered(series) {
  const text = filterText();
  const kept = series.labels.map((label, index) => index)
    .filter((index) => series.labels[index].toLowerCase().includes(text));
  const chosen = {...series};
  for (const name of ["x", "y", "labels", "short_labels", "low", "high", "marked"]) {
    if (series[name]) chosen[name] = kept.map((index) => series[name][index]);
  }
  return chosen;
}

function errorBars(values, series) {
  if (!series.low) return undefined;
  return {
    type: "data", symmetric: false, thickness: 1, width: 3,
    array: values.map((value, i) => (series.high[i] === null ? 0 : series.high[i] - value)),
    arrayminus: values.map((value, i) => (series.low[i] === null ? 0 : value - series.low[i])),
  };
}

const number = (value) => (value === null ? "" : Number(value.toPrecision(4)).toString());

function hoverTexts(figure, series) {
  return series.labels.map((label, i) => {
    const x = figure.x_ticks ? "" : `<br>${escaped(figure.x_title || "")}: ${number(series.x[i])}`;
    const y = series.y ? `<br>${escaped(figure.y_title || "")}: ${number(series.y[i])}` : "";
    const ends = series.low ? `<br>interval: ${number(series.low[i])} to ${number(series.high[i])}` : "";
    return escaped(label) + x + y + ends;
  });
}

function bars(figure, series) {
  return [{
    type: "bar", orientation: "h", name: escaped(series.name), x: series.x,
    y: (series.short_labels || series.labels).map(escaped), error_x: {...errorBars(series.x, series), color: styleOf("--soft")},
    marker: {color: series.style.colour},
    hoverinfo: "text", hovertext: hoverTexts(figure, series), text: series.x.map(number),
    textposition: "inside", insidetextanchor: "start", insidetextfont: {color: "#fff"},
  }];
}

function band(series) {
  const x = [...series.x, ...[...series.x].reverse()];
  const y = [...series.high, ...[...series.low].reverse()];
  return {
    type: "scatter", mode: "lines", x, y, fill: "toself", hoverinfo: "skip", showlegend: false,
    line: {width: 0}, fillcolor: `${series.style.colour}33`,
  };
}

function points(figure, series) {
  const isLine = figure.kind === "lines";
  const marked = series.marked || series.labels.map(() => false);
  const color = series.style.colour;
  const trace = {
    type: "scatter", mode: isLine ? "lines+markers" : "markers", name: escaped(series.name),
    x: series.x, y: series.y, hoverinfo: "text", hovertext: hoverTexts(figure, series),
    connectgaps: false, opacity: 1,
    line: {color, width: 1.5, dash: series.style.dash},
    marker: {
      color, opacity: 1, size: marked.map((mark) => (mark ? 14 : isLine ? 6 : 9)),
      symbol: marked.map((mark) => (mark ? "star" : series.style.symbol)),
      line: {width: 1, color: styleOf("--back")},
    },
  };
  if (isLine) return series.low ? [band(series), trace] : [trace];
  return [{...trace, error_y: errorBars(series.y, series)}];
}

function shapes(figure) {
  return (figure.marks || []).map((mark) => {
    const [along, across] = mark.axis === "x" ? ["x", "y"] : ["y", "x"];
    return {
      type: "line", [`${along}0`]: mark.value, [`${along}1`]: mark.value, [`${across}0`]: 0,
      [`${across}1`]: 1, [`${across}ref`]: "paper",
      line: {color: styleOf("--soft"), width: 1, dash: "dash"},
      label: {text: escaped(mark.label), textposition: "end", textangle: 0,
        xanchor: mark.axis === "x" ? "left" : "right", yanchor: mark.axis === "x" ? "top" : "bottom", font: {size: 11, color: styleOf("--soft")}},
    };
  });
}

const broken = (text) => escaped(text).replaceAll("\n", "<br>");

function layoutOf(figure, series) {
  const count = series.reduce((sum, one) => sum + one.labels.length, 0);
  const isBars = figure.kind === "bars";
  const axis = {color: styleOf("--text"), gridcolor: styleOf("--line"), zeroline: false,
    automargin: true};
  const xaxis = {...axis, title: {text: broken(figure.x_title || "")}};
  if (figure.x_ticks) {
    xaxis.tickvals = figure.x_ticks.map(([value]) => value);
    xaxis.ticktext = figure.x_ticks.map(([, text]) => broken(text));
    const places = figure.x_ticks.map(([value]) => value);
    const [first, last] = [Math.min(...places), Math.max(...places)];
    const padding = Math.max(0.4, 0.04 * (last - first));
    xaxis.range = [first - padding, last + padding];
  }
  const yaxis = {...axis, title: {text: broken(figure.y_title || "")}};
  if (figure.is_log) Object.assign(yaxis, {type: "log", dtick: 1, exponentformat: "power"});
  if (isBars) Object.assign(yaxis, {autorange: "reversed", dtick: 1, tickfont: {size: 11}});
  return {
    title: {text: escaped(figure.title), font: {size: isNarrow() ? 14 : 16}, x: 0.01},
    height: isBars ? 140 + 20 * count : isNarrow() ? 460 : 520,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {color: styleOf("--text"), family: "system-ui, sans-serif", size: isNarrow() ? 11 : 12},
    margin: {l: 10, r: 10, t: 45, b: 10}, xaxis, yaxis, shapes: shapes(figure),
    modebar: {bgcolor: "rgba(0,0,0,0)", color: styleOf("--soft"), activecolor: styleOf("--text")},
    showlegend: figure.kind === "points" || series.length > 1, legend: {orientation: "h", y: -0.2, yref: "container", yanchor: "bottom"},
    hovermode: "closest", bargap: 0.25,
  };
}

function draw(place, figure, byCandidate) {
  const series = byCandidate ? figure.series.map(filtered) : figure.series;
  const make = figure.kind === "bars" ? bars : points;
  const traces = series.flatMap((one) => (one.labels.length ? make(figure, one) : []));
  Plotly.react(place, traces, layoutOf(figure, series), settings());
  place.classList.add("drawn");
}

function table(figure) {
  const heads = ["series", "label", figure.x_title || "x", figure.y_title || "y", "low", "high"];
  const body = element("tbody");
  for (const series of figure.series) {
    series.labels.forEach((label, i) => {
      const cells = [series.x, series.y, series.low, series.high].map(
        (values) => (values && values[i] !== null ? number(values[i]) : ""));
      body.append(element("tr", {}, element("th", {scope: "row"}, series.name),
        ...[label, ...cells].map((text) => element("td", {}, text))));
    });
  }
  const head = element("tr", {}, ...heads.map((text) => element("th", {scope: "col"}, text)));
  return element("table", {}, element("thead", {}, head), body);
}

// A section with a choice among figures; returns a function that shows one of them. Points that are
// candidates are filtered by the filter of the page.
function gallery(name, figures, byCandidate, onShow = () => {}) {
  const choice = byId(`${name}-choice`);
  const place = byId(name);
  let current = 0;
  let isVisible = false;
  const redraw = () => isVisible && window.Plotly && draw(place, figures[current], byCandidate);
  const show = (index) => {
    current = index;
    choice.value = String(index);
    byId(`${name}-note`).textContent = figures[index].note || "";
    onShow(figures[index]);
    redraw();
  };
  choice.append(...figures.map((figure, index) => element("option", {value: index}, figure.title)));
  choice.addEventListener("change", () => show(Number(choice.value)));
  document.addEventListener("filtered", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => { isVisible = true; redraw(); });
  show(0);
  window.addEventListener("load", () => {
    new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      isVisible = true;
      observer.disconnect();
      redraw();
    }, {rootMargin: "300px"}).observe(place);
  });
  return show;
}

if (report.figures.length) {
  const details = byId("figure-data");
  let shown = report.figures[0];
  const fill = () => details.open && details.lastElementChild.replaceChildren(table(shown));
  details.addEventListener("toggle", fill);
  gallery("figure", report.figures, true, (figure) => { shown = figure; fill(); });
}

const showTrendFigure = report.trends.length ? gallery("trend", report.trends, false) : null;

function showTrend(index) {
  showTrendFigure(index);
  byId("trends").scrollIntoView();
  byId("trend-choice").focus();
}
