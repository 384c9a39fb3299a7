
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("thresholds").textContent);
  const byId = (id) => document.getElementById(id);
  const slider = byId("slider");
  const number = byId("number");
  const count = (n) => n.toLocaleString("en-US");
  const percent = (part, whole) => {
    if (!part || !whole) return "0 %";
    const share = (100 * part) / whole;
    if (share >= 10) return share.toFixed(1) + " %";
    if (share >= 0.01) return share.toFixed(2) + " %";
    return share.toExponential(1) + " %";
  };
  const rate = (part, rest) => (part + rest ? ((100 * part) / (part + rest)).toFixed(2) + " %" : "not known");
  const put = (id, text) => { byId(id).textContent = text; };

  const moveLine = (at) => {
    const cut = byId("cut");
    const left = Number(cut.dataset.left);
    const right = Number(cut.dataset.right);
    const x = left + at * (right - left);
    cut.setAttribute("x1", x);
    cut.setAttribute("x2", x);
    byId("above").setAttribute("x", x);
    byId("above").setAttribute("width", right - x);
  };
  const movePoint = (id, x, y) => {
    const point = byId(id);
    const known = x !== null && y !== null;
    point.setAttribute("visibility", known ? "visible" : "hidden");
    if (!known) return;
    const place = point.dataset;
    point.setAttribute("cx", Number(place.left) + x * (place.right - place.left));
    point.setAttribute("cy", Number(place.bottom) - y * (place.bottom - place.top));
  };
  const showLabels = (stop) => {
    const { frauds, honest, caught, alarms } = data.labels;
    const hits = caught[stop];
    const wrong = alarms[stop];
    if (hits === null) {
      for (const id of ["caught", "missed", "alarms", "passed", "precision", "recall", "alarm-rate"]) put(id, "not known");
      movePoint("roc-point", null, null);
      movePoint("pr-point", null, null);
      return;
    }
    put("caught", count(hits));
    put("missed", count(frauds - hits));
    put("alarms", count(wrong));
    put("passed", count(honest - wrong));
    put("precision", rate(hits, wrong));
    put("recall", rate(hits, frauds - hits));
    put("alarm-rate", rate(wrong, honest - wrong));
    const recall = frauds ? hits / frauds : null;
    movePoint("roc-point", honest ? wrong / honest : null, recall);
    movePoint("pr-point", recall, hits + wrong ? hits / (hits + wrong) : null);
  };
  const show = (stop) => {
    const at = data.at[stop];
    const least = data.least[stop];
    const most = data.most[stop];
    const text = least === most
      ? count(least) + " rows (" + percent(least, data.scored) + ")"
      : count(least) + " to " + count(most) + " rows (" + percent(least, data.scored) + " to " + percent(most, data.scored) + ")";
    slider.value = stop;
    slider.setAttribute("aria-valuetext", at + ", " + text);
    number.value = at;
    put("at", "Above " + at);
    put("flagged", text);
    moveLine(at);
    if (data.labels) showLabels(stop);
  };
  const nearest = (wanted) => {
    let best = 0;
    data.at.forEach((at, stop) => {
      if (Math.abs(at - wanted) < Math.abs(data.at[best] - wanted)) best = stop;
    });
    return best;
  };
  const fromAddress = () => {
    const wanted = /^#threshold=([0-9.e-]+)$/.exec(location.hash);
    const at = wanted ? Number(wanted[1]) : NaN;
    show(nearest(at >= 0 && at <= 1 ? at : data.own));
  };

  slider.addEventListener("input", () => show(Number(slider.value)));
  number.addEventListener("change", () => {
    const wanted = number.valueAsNumber;
    show(nearest(wanted >= 0 && wanted <= 1 ? wanted : data.own));
  });
  byId("own").addEventListener("click", () => show(nearest(data.own)));
  window.addEventListener("hashchange", fromAddress);
  byId("dial").hidden = false;
  fromAddress();
})();
