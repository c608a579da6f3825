//! The picture as SVG.
//!
//! Invariant: no element has a style of its own. Positions and sizes are attributes, and colours
//! are the page's. The width of a text is estimated by its letters.

use std::fmt::Write;

use maud::{Markup, html};

use super::{Kind, Node, Picture};
use crate::layout::{Layout, Line, Point, Size, layout};

/// The space around the picture, in pixels.
const MARGIN: f64 = 14.0;
/// The width of a letter of a step's name, which is in a monospaced font of 13 pixels.
const NAME_LETTER: f64 = 7.9;
/// The mean width of a letter of the other texts, which are smaller.
const LETTER: f64 = 6.1;
/// The most letters of a name, and of a fact.
const NAME_MAX: usize = 30;
const FACT_MAX: usize = 40;
const NODE_WIDTH_MIN: f64 = 108.0;
const PADDING: f64 = 14.0;
const NAME_LINE: f64 = 20.0;
const FACT_LINE: f64 = 15.0;
const COUNT_LINE: f64 = 20.0;
/// The width of a loop beside a node, without its words.
const LOOP: f64 = 30.0;

/// A node, as large as its texts.
struct Box {
    half: f64,
    height: f64,
    /// The width of what stands to the right of it.
    beside: f64,
}

/// Draws a picture. `link` returns the URL of a step. None if the graph is too large.
pub(crate) fn svg(picture: &Picture, link: impl Fn(&str) -> String) -> Option<Markup> {
    let boxes: Vec<Box> = picture.nodes.iter().map(measure).collect();
    let sizes: Vec<Size> = boxes
        .iter()
        .map(|node| Size {
            left: node.half,
            right: node.half + node.beside,
            height: node.height,
            port: (node.half - 14.0).max(0.0),
        })
        .collect();
    let edges: Vec<(usize, usize)> =
        picture.edges.iter().map(|arrow| (arrow.from, arrow.to)).collect();
    let Layout { nodes, lines, width, height } = layout(&sizes, &edges)?;
    let (width, height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    let shift = |point: Point| Point { x: point.x + MARGIN, y: point.y + MARGIN };
    Some(html! {
        svg class="graph" width=(round(width)) height=(round(height))
            viewBox=(format!("0 0 {} {}", round(width), round(height)))
            role="group" aria-label=(format!("graph of machine {}", picture.machine)) {
            g class="lines" aria-hidden="true" {
                @for (line, arrow) in lines.iter().zip(&picture.edges) {
                    (curve(line, arrow.delayed, shift))
                }
            }
            @for ((node, size), at) in picture.nodes.iter().zip(&boxes).zip(&nodes) {
                (draw(node, size, shift(*at), &link))
            }
        }
    })
}

fn measure(node: &Node) -> Box {
    match node.kind {
        Kind::Start => Box { half: 7.0, height: 14.0, beside: 0.0 },
        Kind::Done | Kind::Event => {
            let half = 14.0 + width(&node.name, LETTER + 0.6) / 2.0;
            Box { half, height: 26.0, beside: 0.0 }
        }
        Kind::Step => {
            let facts = node.facts.iter().map(|fact| width(&cut(fact, FACT_MAX), LETTER));
            let counts = counts_width(node);
            let widest = facts.fold(width(&cut(&node.name, NAME_MAX), NAME_LETTER), f64::max);
            let half = (widest.max(counts) + 2.0 * PADDING).max(NODE_WIDTH_MIN) / 2.0;
            let beside = node.loops.iter().map(|way| width(&cut(way, FACT_MAX), LETTER));
            let beside = beside.reduce(f64::max).map_or(0.0, |widest| LOOP + widest);
            let counted = if node.counts.is_empty() { 0.0 } else { COUNT_LINE };
            let height = 16.0 + NAME_LINE + FACT_LINE * small(node.facts.len()) + counted;
            let height = height.max(FACT_LINE * small(node.loops.len()) + 6.0);
            Box { half, height, beside }
        }
    }
}

fn counts_width(node: &Node) -> f64 {
    node.counts.iter().map(|count| width(&count_text(count.1, count.2), LETTER + 1.0) + 22.0).sum()
}

fn count_text(count: u64, capped: bool) -> String {
    format!("{count}{}", if capped { "+" } else { "" })
}

/// Returns the width of a text. Letters beyond Latin are often twice as wide.
fn width(text: &str, letter: f64) -> f64 {
    text.chars().map(|c| if u32::from(c) < 0x1100 { letter } else { 2.0 * letter }).sum()
}

#[expect(clippy::cast_precision_loss, reason = "a node has few lines")]
fn small(count: usize) -> f64 {
    count as f64
}

fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max - 1).collect();
    cut.push('…');
    cut
}

/// Writes a number with one digit after the point at most.
fn round(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

/// Draws a line with its head.
fn curve(line: &Line, delayed: bool, shift: impl Fn(Point) -> Point) -> Markup {
    let points: Vec<Point> = line.points.iter().map(|point| shift(*point)).collect();
    let (first, last) = (points[0], points[points.len() - 1]);
    let before = points[points.len() - 2];
    let direction = if before.y < last.y { 1.0 } else { -1.0 };
    let mut path = format!("M{} {}", round(first.x), round(first.y));
    for (index, pair) in points.windows(2).enumerate() {
        let (from, mut to) = (pair[0], pair[1]);
        if index + 2 == points.len() {
            // The head covers the end.
            to.y -= 6.0 * direction;
        }
        // Writing to a text cannot fail.
        let _ = if (from.x - to.x).abs() < 0.1 {
            write!(path, "V{}", round(to.y))
        } else {
            let middle = round(f64::midpoint(from.y, to.y));
            let (a, b, y) = (round(from.x), round(to.x), round(to.y));
            write!(path, "C{a} {middle} {b} {middle} {b} {y}")
        };
    }
    let class = match (line.back, delayed) {
        (false, false) => "line",
        (false, true) => "line late",
        (true, false) => "line back",
        (true, true) => "line back late",
    };
    html! {
        path class=(class) d=(path) {}
        path class="head" d=(head(last, direction)) {}
    }
}

/// Returns the head of an arrow that points down, or up.
fn head(tip: Point, direction: f64) -> String {
    let y = round(tip.y - 8.0 * direction);
    let (left, right) = (round(tip.x - 4.5), round(tip.x + 4.5));
    format!("M{} {}L{left} {y}H{right}Z", round(tip.x), round(tip.y))
}

fn draw(node: &Node, size: &Box, at: Point, link: &impl Fn(&str) -> String) -> Markup {
    let (x, y) = (round(at.x - size.half), round(at.y));
    let (width, height) = (round(2.0 * size.half), round(size.height));
    let middle = round(at.x);
    match node.kind {
        Kind::Start => html! {
            circle class="start" cx=(middle) cy=(round(at.y + 7.0)) r="6" { title { "start" } }
        },
        Kind::Done | Kind::Event => html! {
            g class=(if node.kind == Kind::Done { "done" } else { "event" }) {
                rect x=(x) y=(y) width=(width) height=(height) rx="13" {}
                text class="small" x=(middle) y=(round(at.y + 17.0)) { (node.name) }
                @if !node.facts.is_empty() { title { (node.facts.join(", ")) } }
            }
        },
        Kind::Step => html! {
            g class=(classes(node)) {
                a href=(link(&node.name)) aria-label=(label(node)) {
                    title { (label(node)) }
                    rect x=(x) y=(y) width=(width) height=(height) rx="9" {}
                    text class="name" x=(middle) y=(round(at.y + 23.0)) {
                        (cut(&node.name, NAME_MAX))
                    }
                    @for (line, fact) in node.facts.iter().enumerate() {
                        text class="small" x=(middle)
                            y=(round(at.y + 39.0 + FACT_LINE * small(line))) {
                            (cut(fact, FACT_MAX))
                        }
                    }
                    (counts(node, at))
                }
                (ways_back(node, size, at))
            }
        },
    }
}

fn counts(node: &Node, at: Point) -> Markup {
    let mut x = at.x - counts_width(node) / 2.0;
    let y = at.y + 16.0 + NAME_LINE + FACT_LINE * small(node.facts.len());
    html! {
        @for (waits, count, capped) in &node.counts {
            @let text = count_text(*count, *capped);
            circle class=(format!("dot {}", waits.as_str())) cx=(round(x + 6.0)) cy=(round(y + 4.0)) r="4" {}
            text class=(format!("count {}", waits.as_str())) x=(round(x + 14.0)) y=(round(y + 8.0)) { (text) }
            ({ x += width(&text, LETTER + 1.0) + 22.0; "" })
        }
    }
}

/// Draws the loop beside a step, with its words.
fn ways_back(node: &Node, size: &Box, at: Point) -> Markup {
    if node.loops.is_empty() {
        return html! {};
    }
    let right = at.x + size.half;
    let (upper, lower) = (at.y + size.height * 0.3, at.y + size.height * 0.7);
    let (start, end, out) = (round(right), round(right + 6.0), round(right + 26.0));
    let path = format!(
        "M{start} {}C{out} {} {out} {} {end} {}",
        round(upper),
        round(upper - 4.0),
        round(lower + 4.0),
        round(lower)
    );
    let tip = format!(
        "M{start} {}L{} {}V{}Z",
        round(lower),
        round(right + 8.0),
        round(lower - 4.5),
        round(lower + 4.5)
    );
    let first = at.y + size.height / 2.0 - FACT_LINE * (small(node.loops.len()) - 1.0) / 2.0 + 4.0;
    html! {
        path class="line self" d=(path) {}
        path class="head" d=(tip) {}
        @for (line, way) in node.loops.iter().enumerate() {
            text class="way" x=(round(right + LOOP - 4.0)) y=(round(first + FACT_LINE * small(line))) {
                (cut(way, FACT_MAX))
                @if cut(way, FACT_MAX) != *way { title { (way) } }
            }
        }
    }
}

fn classes(node: &Node) -> String {
    let mut classes = "node".to_owned();
    let marks = [
        (node.marks.here, " here"),
        (node.marks.seen, " seen"),
        (node.marks.paused, " paused"),
        (node.marks.opaque, " opaque"),
    ];
    for (is_set, class) in marks {
        if is_set {
            classes.push_str(class);
        }
    }
    classes
}

/// Says all of a step in words: for a pointer that rests on it, and for people who do not see it.
fn label(node: &Node) -> String {
    let mut label = format!("step {}", node.name);
    if node.marks.here {
        label.push_str(", where it stands");
    }
    if node.marks.paused {
        label.push_str(", paused");
    }
    for (waits, count, capped) in &node.counts {
        let _ = write!(label, ", {} {waits}", count_text(*count, *capped));
    }
    for fact in node.facts.iter().chain(&node.loops) {
        let _ = write!(label, ", {fact}");
    }
    label
}
