//! A picture of one run: the bytes of each node over time, as plain SVG.

use std::collections::BTreeSet;
use std::fmt::Write;

use firn_exchange::Micros;

use super::plan::{Nature, NodePlan, SwarmPlan};
use super::report::{Curve, Mark, MarkKind, SwarmReport};

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 262.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 60.0;
/// So many nodes are named in the legend.
const NAMED_MAX: usize = 22;
/// Colours that are told apart, also by most who see fewer of them (Okabe and Ito, 2008), then the same darker.
const COLOURS: [&str; 14] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#004b75", "#a06e00",
    "#006b4e", "#8f4a72", "#2b7fa8", "#8f3f00", "#5a4380",
];
const LIAR: &str = "#c1121f";

struct Frame {
    seconds: f64,
    mebibytes: f64,
}

impl Frame {
    fn x(&self, at: Micros) -> f64 {
        LEFT + at.0 as f64 / 1e6 / self.seconds * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, bytes: u64) -> f64 {
        HEIGHT - BOTTOM - bytes as f64 / 1048576.0 / self.mebibytes * (HEIGHT - TOP - BOTTOM)
    }
}

/// Draws a run of this plan.
pub fn draw(plan: &SwarmPlan, report: &SwarmReport) -> String {
    let most = report.curves.iter().filter_map(|curve| curve.0.last()).map(|(_, bytes)| *bytes).max();
    let frame = Frame {
        seconds: (report.ended_at.0 as f64 / 1e6 * 1.02).max(0.001),
        mebibytes: (most.unwrap_or(0) as f64 / 1048576.0 * 1.06).max(0.001),
    };
    let mut svg = head(report);
    axes(&mut svg, &frame);
    for ((place, node), curve) in plan.nodes.iter().enumerate().zip(&report.curves) {
        line(&mut svg, &frame, colour(node, place), curve, report.ended_at);
    }
    let mut blamed = BTreeSet::new();
    // Each liar is shown where it was first found out.
    let is_new = |mark: &&Mark| mark.kind != MarkKind::Blamed || blamed.insert(mark.node);
    for mark in report.marks.iter().filter(is_new) {
        self::mark(&mut svg, &frame, plan, report, mark);
    }
    legend(&mut svg, plan);
    svg.push_str("</svg>\n");
    svg
}

/// Writing to a string does not fail.
fn put(svg: &mut String, line: std::fmt::Arguments<'_>) {
    svg.write_fmt(line).expect("a string takes all that is written to it");
    svg.push('\n');
}

fn head(report: &SwarmReport) -> String {
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333\">"
        ),
    );
    put(&mut svg, format_args!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>"));
    put(
        &mut svg,
        format_args!(
            "<text x=\"{LEFT}\" y=\"28\" font-size=\"18\" font-weight=\"bold\" fill=\"#111\">Swarm of seed {}</text>",
            report.seed
        ),
    );
    put(&mut svg, format_args!("<text x=\"{LEFT}\" y=\"48\" fill=\"#666\">{report}</text>"));
    svg
}

/// A step between lines of a scale that reaches to here: 1, 2 or 5 times a power of ten.
fn step(end: f64) -> f64 {
    let rough = end / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}

fn axes(svg: &mut String, frame: &Frame) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let decimals = |step: f64| if step >= 1.0 { 0 } else { (-step.log10()).ceil() as usize };
    let every = step(frame.seconds);
    for count in 0..=(frame.seconds / every) as u64 {
        let seconds = count as f64 * every;
        let x = frame.x(Micros((seconds * 1e6) as u64));
        put(
            svg,
            format_args!(
                "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ececec\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{seconds:.*}</text>",
                bottom + 20.0,
                decimals(every)
            ),
        );
    }
    let every = step(frame.mebibytes);
    for count in 0..=(frame.mebibytes / every) as u64 {
        let mebibytes = count as f64 * every;
        let y = frame.y((mebibytes * 1048576.0) as u64);
        put(
            svg,
            format_args!(
                "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ececec\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mebibytes:.*}</text>",
                LEFT - 9.0,
                y + 4.5,
                decimals(every)
            ),
        );
    }
    put(svg, format_args!("<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#555\"/>"));
    put(
        svg,
        format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">time, in seconds</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 16.0
        ),
    );
    let middle = (TOP + bottom) / 2.0;
    put(
        svg,
        format_args!(
            "<text transform=\"translate(24 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">verified, in MiB</text>"
        ),
    );
}

fn colour(node: &NodePlan, place: usize) -> &'static str {
    match node.nature {
        Nature::Honest => COLOURS[place % COLOURS.len()],
        Nature::Ignorant => "#999999",
        Nature::Liar(..) => LIAR,
    }
}

fn line(svg: &mut String, frame: &Frame, colour: &str, curve: &Curve, end: Micros) {
    let Some((first, _)) = curve.0.first() else { return };
    let mut path = format!("M{:.1} {:.1}", frame.x(*first), frame.y(0));
    for (at, bytes) in &curve.0 {
        put(&mut path, format_args!("H{:.1}V{:.1}", frame.x(*at), frame.y(*bytes)));
    }
    put(&mut path, format_args!("H{:.1}", frame.x(end)));
    put(
        svg,
        format_args!(
            "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-linejoin=\"round\" opacity=\"0.9\"/>",
            path.replace('\n', "")
        ),
    );
}

/// What happened to a node stands on its line, or on the axis where it has none.
fn mark(svg: &mut String, frame: &Frame, plan: &SwarmPlan, report: &SwarmReport, mark: &Mark) {
    let Some(place) = plan.nodes.iter().position(|node| node.number == mark.node) else { return };
    let before = report.curves[place].0.iter().rev().find(|(at, _)| *at <= mark.at);
    let (x, y) = (frame.x(mark.at), frame.y(before.map_or(0, |(_, bytes)| *bytes)));
    let colour = colour(&plan.nodes[place], place);
    let number = mark.node;
    symbol(svg, mark.kind, (x, y), colour);
    if !matches!(mark.kind, MarkKind::Done | MarkKind::Back) {
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\" fill=\"{colour}\">{number}</text>",
                x + 6.0,
                y - 6.0
            ),
        );
    }
}

fn symbol(svg: &mut String, kind: MarkKind, (x, y): (f64, f64), colour: &str) {
    let cross = format!("M{:.1} {:.1}l9 9m0 -9l-9 9", x - 4.5, y - 4.5);
    match kind {
        MarkKind::Crashed => {
            put(svg, format_args!("<path d=\"{cross}\" stroke=\"{colour}\" stroke-width=\"2.6\"/>"))
        }
        MarkKind::Left => {
            put(svg, format_args!("<path d=\"{cross}\" stroke=\"{colour}\" stroke-width=\"1.2\"/>"))
        }
        MarkKind::CutOff => put(
            svg,
            format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"1.6\"/>",
                x - 4.0,
                y - 4.0
            ),
        ),
        MarkKind::Back => put(
            svg,
            format_args!(
                "<path d=\"M{:.1} {:.1}l5 -9l5 9z\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"1.6\"/>",
                x - 5.0,
                y + 4.0
            ),
        ),
        MarkKind::Blamed => {
            put(svg, format_args!("<path d=\"M{:.1} {:.1}l5 9h-10z\" fill=\"{LIAR}\"/>", x, y - 12.0))
        }
        MarkKind::Done => {
            put(svg, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"))
        }
    }
}

fn legend(svg: &mut String, plan: &SwarmPlan) {
    let x = WIDTH - RIGHT + 24.0;
    let mut y = TOP + 8.0;
    let symbols = [
        (MarkKind::Done, "has the tree"),
        (MarkKind::Blamed, "is called a liar"),
        (MarkKind::Crashed, "crashes"),
        (MarkKind::Left, "leaves"),
        (MarkKind::CutOff, "is cut off"),
        (MarkKind::Back, "is back"),
    ];
    for (kind, text) in symbols {
        symbol(svg, kind, (x + 9.0, y), "#555");
        put(svg, format_args!("<text x=\"{:.1}\" y=\"{:.1}\">{text}</text>", x + 28.0, y + 4.5));
        y += 20.0;
    }
    y += 10.0;
    for (place, node) in plan.nodes.iter().enumerate().take(NAMED_MAX) {
        let colour = colour(node, place);
        put(
            svg,
            format_args!(
                "<path d=\"M{x:.1} {y:.1}h18\" stroke=\"{colour}\" stroke-width=\"3\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 28.0,
                y + 4.5,
                what(node)
            ),
        );
        y += 18.0;
    }
    if let Some(more) = plan.nodes.len().checked_sub(NAMED_MAX + 1) {
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666\">and {} more</text>",
                x + 28.0,
                y + 4.5,
                more + 1
            ),
        );
    }
}

fn what(node: &NodePlan) -> String {
    let number = node.number;
    match node.nature {
        Nature::Liar(kind, _) => format!("{number}: liar, {kind:?}"),
        Nature::Ignorant => format!("{number}: has nothing"),
        Nature::Honest if node.wants.is_empty() && node.holds.is_empty() => format!("{number}: looks on"),
        Nature::Honest if node.wants.is_empty() => format!("{number}: seeds, {}", rate(node.up)),
        Nature::Honest => format!("{number}: fetches, {}", rate(node.down)),
    }
}

fn rate(bytes: u64) -> String {
    format!("{:.1} MiB/s", bytes as f64 / 1048576.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::run_swarm;

    #[test]
    fn scales_have_a_few_round_lines() {
        for (end, expected) in [(1.0, 0.2), (8.0, 1.0), (9.0, 2.0), (37.9, 5.0), (438.0, 100.0)] {
            assert!((step(end) - expected).abs() < 1e-9, "{end}");
        }
    }

    #[test]
    fn every_seed_can_be_drawn() {
        for seed in 0..5 {
            let plan = SwarmPlan::from_seed(seed);
            let svg = draw(&plan, &run_swarm(&plan, false));
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
        }
    }
}
