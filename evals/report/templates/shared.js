// Shared by the other scripts: the data of the page, and the creation of elements.
// Texts are only ever set as text, never as HTML.
"use strict";

const report = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// element("p", {class: "note"}, "text", otherElement)
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function facts(pairs) {
  const list = element("dl", {class: "facts"});
  for (const [name, value] of pairs) {
    if (value === undefined || value === null || value === "") continue;
    const shown = value instanceof Node ? value : String(value);
    list.append(element("dt", {}, name), element("dd", {}, shown));
  }
  return list;
}
