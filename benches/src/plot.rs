//! The result as a picture: one row per comparison, advantage on a logarithmic axis.

use std::path::Path;

use plotters::prelude::*;

use crate::comparison::{Comparison, Failure};
use crate::report::reaches;
use crate::run::Outcome;

const ROW: u32 = 32;
const WIDTH: u32 = 900;

/// Draws medians (dot), spread (line) and bars (tick) to an SVG file.
pub(crate) fn draw(file: &Path, measured: &[(&Comparison, Outcome)]) -> Result<(), Failure> {
    let rows = measured.len() as i32;
    let least = measured.iter().map(|(line, out)| out.min.min(line.bar));
    let most = measured.iter().map(|(line, out)| out.max.max(line.bar));
    let low = least.fold(0.5, f64::min) / 1.1;
    let high = most.fold(2.0, f64::max) * 1.1;

    let area = SVGBackend::new(file, (WIDTH, 100 + ROW * rows as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("advantage over the peer (1 = equal)", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(200)
        .build_cartesian_2d((low..high).log_scale(), (-rows..0).into_segmented())?;
    let name = |row: &SegmentValue<i32>| match row {
        SegmentValue::CenterOf(row) => measured
            .get((-row - 1) as usize)
            .map_or(String::new(), |(line, _)| line.name.to_owned()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .label_style(("sans-serif", 15))
        .y_labels(measured.len())
        .y_label_formatter(&name)
        .x_label_formatter(&|x| format!("{x:.2}"))
        .draw()?;

    let equal = vec![(1.0, SegmentValue::Exact(-rows)), (1.0, SegmentValue::Last)];
    chart.draw_series([PathElement::new(equal, BLACK.mix(0.4))])?;
    for (row, (line, outcome)) in (1..).zip(measured) {
        let at = |x: f64| (x, SegmentValue::CenterOf(-row));
        let color = if reaches(line, outcome) { &GREEN } else { &RED };
        let color = color.mix(0.7);
        let spread = PathElement::new(
            vec![at(outcome.min), at(outcome.max)],
            color.stroke_width(3),
        );
        chart.draw_series([spread])?;
        chart.draw_series([Circle::new(at(outcome.advantage), 5, color.filled())])?;
        chart.draw_series([TriangleMarker::new(at(line.bar), 6, BLACK.filled())])?;
    }
    area.present()?;
    Ok(())
}
