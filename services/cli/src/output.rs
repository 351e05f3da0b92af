//! Answers as tables for people or JSON for programs.

use clap::ValueEnum;
use serde_json::Value;

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// The API's own answer.
    Json,
}

/// A string field; empty where there is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Format {
    /// Clusters: `rows` for people, `whole` for programs.
    pub fn clusters(self, rows: &[Value], whole: &Value) -> String {
        match self {
            Self::Json => format!("{whole:#}\n"),
            Self::Table => table(
                &["NAME", "STATE", "VERSION", "ID", "CREATED"],
                rows.iter()
                    .map(|c| ["name", "state", "version", "id", "createdAt"].map(|f| text(&c[f]).to_owned()).to_vec()),
            ),
        }
    }

    /// What to type on the machine that joins.
    pub fn join_command(self, token: &Value) -> String {
        match self {
            Self::Json => format!("{token:#}\n"),
            Self::Table => format!("{}\n", text(&token["joinCommand"])),
        }
    }
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines = vec![head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let cluster = json!({"name": "shop", "state": "ready", "version": "1.36", "id": "0d9f", "createdAt": "now"});
        let shown = Format::Table.clusters(std::slice::from_ref(&cluster), &cluster);
        assert_eq!(shown, "NAME   STATE   VERSION   ID     CREATED\nshop   ready   1.36      0d9f   now\n");
    }
}
