//! Samples as curves: small panels below one another over the same time, readable on light and on dark ground.

use std::fmt::Write as _;

use super::Sample;

const WIDTH: f64 = 860.0;
const PANEL: f64 = 110.0;
const GAP: f64 = 46.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 64.0;

/// Colours that keep their contrast on both grounds.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:16px;font-weight:600}\
    .grid{stroke:#ccc;stroke-width:1}.ground{fill:#fff}.a{stroke:#1668b8}.b{stroke:#b8560f}\
    .line{fill:none;stroke-width:1.8}.at{fill:#1668b8}.bt{fill:#b8560f}\
    @media (prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}.ground{fill:#15181c}.a{stroke:#6cb2f5}\
    .b{stroke:#f2a45c}.at{fill:#6cb2f5}.bt{fill:#f2a45c}}";

struct Curve {
    label: &'static str,
    points: Vec<(f64, f64)>,
}

struct Panel {
    title: &'static str,
    curves: Vec<Curve>,
}

/// How fast something moves, over half a minute, so that a batch here and a batch there are not a curve.
fn rate(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    const OVER: f64 = 30.0;
    let mut points = Vec::new();
    for (n, sample) in samples.iter().enumerate() {
        let Some(before) = samples[..n].iter().rev().find(|before| sample.seconds - before.seconds >= OVER) else {
            continue;
        };
        points.push((sample.seconds, (of(sample) - of(before)) / (sample.seconds - before.seconds)));
    }
    points
}

fn level(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    samples.iter().map(|sample| (sample.seconds, of(sample))).collect()
}

/// The picture, as SVG.
pub fn draw(title: &str, samples: &[Sample]) -> String {
    let one = |title, label, points| Panel { title, curves: vec![Curve { label, points }] };
    let two = |title, a: (&'static str, Vec<_>), b: (&'static str, Vec<_>)| Panel {
        title,
        curves: vec![Curve { label: a.0, points: a.1 }, Curve { label: b.0, points: b.1 }],
    };
    let panels = [
        two("CPU, cores", ("server", rate(samples, |s| s.server_cpu)), ("Postgres", rate(samples, |s| s.postgres_cpu))),
        two(
            "Memory, MiB",
            ("server", level(samples, |s| s.server_mib)),
            ("Postgres", level(samples, |s| s.postgres_mib)),
        ),
        one("Write-ahead log, MiB/s", "log", rate(samples, |s| s.wal_mib)),
        one("Transactions/s", "commits", rate(samples, |s| s.transactions)),
        one("Rows", "rows", level(samples, |s| s.rows)),
        one("Database, MiB", "size", level(samples, |s| s.database_mib)),
    ];
    let until = samples.last().map_or(1.0, |sample| sample.seconds).max(1.0);
    let height = TOP + panels.len() as f64 * (PANEL + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\"/>\n<text class=\"title\" x=\"{LEFT}\" y=\"30\">{title}</text>\n"
    );
    for (n, panel) in panels.iter().enumerate() {
        draw_panel(&mut svg, panel, TOP + n as f64 * (PANEL + GAP), until);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A round number not below `value`.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(value.log10().floor());
    [1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0].into_iter().map(|n| n * unit).find(|n| *n >= value).unwrap_or(10.0 * unit)
}

fn draw_panel(svg: &mut String, panel: &Panel, top: f64, until: f64) {
    let values = panel.curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value);
    let most = ceiling(values.fold(0.0, f64::max));
    let (bottom, right) = (top + PANEL, WIDTH - RIGHT);
    let x = |seconds: f64| LEFT + seconds / until * (right - LEFT);
    // From zero: growth is seen as what it is.
    let y = |value: f64| bottom - value.max(0.0) / most * PANEL;
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.0}\">{}</text>", top - 8.0, panel.title);
    for part in [0.0, 0.5, 1.0] {
        let (value, at) = (most * part, y(most * part));
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            short(value)
        );
    }
    for part in [0.0, 0.5, 1.0] {
        let seconds = until * part;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{:.1} min</text>",
            x(seconds),
            bottom + 17.0,
            seconds / 60.0
        );
    }
    for (curve, class) in panel.curves.iter().zip(["a", "b"]) {
        let points: Vec<String> =
            curve.points.iter().map(|(seconds, value)| format!("{:.1},{:.1}", x(*seconds), y(*value))).collect();
        let _ = writeln!(svg, "<polyline class=\"line {class}\" points=\"{}\"/>", points.join(" "));
        if let Some((_, last)) = curve.points.last() {
            let _ = writeln!(
                svg,
                "<text class=\"{class}t\" x=\"{:.0}\" y=\"{:.1}\">{} {}</text>",
                right + 8.0,
                y(*last) + 4.0,
                curve.label,
                short(*last)
            );
        }
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        n if n >= 1_000_000.0 => format!("{:.2}M", value / 1_000_000.0),
        n if n >= 10_000.0 => format!("{:.0}k", value / 1_000.0),
        n if n >= 100.0 => format!("{value:.0}"),
        n if n >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_ends_at_a_round_number() {
        for (value, expected) in [(0.0, 1.0), (0.03, 0.03), (7.6, 10.0), (12.0, 15.0), (1_000.0, 1_000.0)] {
            assert!((ceiling(value) - expected).abs() < 1e-9, "{value}: {}", ceiling(value));
        }
    }

    #[test]
    fn rates_are_over_half_a_minute() {
        let sample = |seconds: f64| Sample { seconds, server_cpu: seconds / 2.0, ..Sample::default() };
        let samples: Vec<Sample> = (0..20).map(|n| sample(f64::from(n) * 5.0)).collect();
        let points = rate(&samples, |s| s.server_cpu);
        assert_eq!(points.len(), 14);
        assert!(points.iter().all(|(_, value)| (value - 0.5).abs() < 1e-9));
    }
}
