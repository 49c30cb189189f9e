/** A small picture of quantities over time. */

import { day, drawn, h, number } from "./dom.js";

const DAY = 86_400_000; // milliseconds
const BARS = 60;
const [WIDTH, HEIGHT] = [600, 72];

/** Return bars of the quantity of each day, or of several where there are many days. */
export function chart(days) {
  const dated = days.filter(({ key }) => !Number.isNaN(Date.parse(key)));
  if (dated.length === 0) return "";
  const at = ({ key }) => Date.parse(key) / DAY;
  const [first, last] = [at(dated[0]), at(dated.at(-1))];
  const span = Math.max(1, Math.ceil((last - first + 1) / BARS)); // days a bar
  const sums = new Array(Math.ceil((last - first + 1) / span)).fill(0);
  for (const one of dated) sums[Math.floor((at(one) - first) / span)] += one.quantity;
  const most = Math.max(...sums);
  const step = WIDTH / Math.max(sums.length, 12);
  const bars = sums.map((sum, index) => {
    const height = sum && Math.max(2, (sum / most) * HEIGHT);
    const size = { width: step * 0.8, height, x: index * step, y: HEIGHT - height };
    return drawn("rect", size, drawn("title", {}, `${label(index)}: ${number(sum)}`));
  });
  const period = span === 1 ? "a day" : `every ${number(span)} days`;
  const text = `Quantity ${period}, ${label(0)} to ${day(dated.at(-1).key)}, at most ${number(most)}`;
  const view = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" };
  const picture = drawn("svg", { ...view, role: "img", "aria-label": text }, bars);
  return h("figure", {}, picture, h("figcaption", {}, text));

  function label(index) {
    return day((first + index * span) * DAY);
  }
}
