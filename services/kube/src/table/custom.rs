//! Columns of custom resources: `additionalPrinterColumns` with their JSONPaths; age where a CRD names none.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Printer, human, name};

/// One of a CRD version's `additionalPrinterColumns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrinterColumn {
    /// Heading.
    pub name: String,
    /// OpenAPI type: `date` cells are shown as ages.
    pub kind: String,
    /// OpenAPI format.
    pub format: String,
    /// Text for people.
    pub description: String,
    /// 0: always, otherwise with `-o wide`.
    pub priority: i64,
    /// `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.
    pub json_path: String,
}

impl PrinterColumn {
    /// The columns of a CRD version (`spec.versions[]`); the age alone where it names none.
    pub fn of_version(version: &Value) -> Vec<Self> {
        let text = |column: &Value, field: &str| column[field].as_str().unwrap_or_default().to_owned();
        match version["additionalPrinterColumns"].as_array() {
            Some(columns) if !columns.is_empty() => columns
                .iter()
                .map(|column| Self {
                    name: text(column, "name"),
                    kind: text(column, "type"),
                    format: text(column, "format"),
                    description: text(column, "description"),
                    priority: column["priority"].as_i64().unwrap_or(0),
                    json_path: text(column, "jsonPath"),
                })
                .collect(),
            _ => vec![Self {
                name: "Age".into(),
                kind: "date".into(),
                format: String::new(),
                description: super::describe("Age"),
                priority: 0,
                json_path: ".metadata.creationTimestamp".into(),
            }],
        }
    }
}

pub(super) fn printer(custom: &[PrinterColumn]) -> Printer {
    let mut columns = super::columns(&[("Name", "string")]);
    columns.extend(custom.iter().map(|c| Column {
        name: c.name.clone(),
        kind: c.kind.clone(),
        format: c.format.clone(),
        description: c.description.clone(),
        priority: c.priority,
    }));
    let paths: Vec<(Vec<Step>, bool)> = custom.iter().map(|c| (parse(&c.json_path), c.kind == "date")).collect();
    Printer {
        columns,
        row: Box::new(move |object, now| {
            let mut row = vec![name(object)];
            row.extend(paths.iter().map(|(path, is_date)| cell(object, path, *is_date, now)));
            row
        }),
    }
}

fn cell(object: &Value, path: &[Step], is_date: bool, now: Timestamp) -> Value {
    match select(object, path).first() {
        None | Some(Value::Null) => Value::Null,
        Some(time) if is_date => json!(human::since(time, now)),
        Some(found @ (Value::Object(_) | Value::Array(_))) => json!(found.to_string()),
        Some(found) => (*found).clone(),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    /// `[?(@.type=="Ready")]`
    Where(String, String),
}

/// The subset of JSONPath that CRDs may use in columns. A part that is not understood selects nothing.
fn parse(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let end = bracket.find(']').unwrap_or(bracket.len());
            let inside = &bracket[..end];
            rest = bracket.get(end + 1..).unwrap_or_default();
            steps.push(parse_bracket(inside));
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let mut field = String::new();
            let mut chars = rest.char_indices();
            let mut end = rest.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    // `\.` is a dot within a name: `.metadata.labels.app\.kubernetes\.io/name`.
                    '\\' => field.extend(chars.next().map(|(_, escaped)| escaped)),
                    '.' | '[' => {
                        end = at;
                        break;
                    }
                    other => field.push(other),
                }
            }
            rest = &rest[end..];
            if !field.is_empty() {
                steps.push(if field == "*" { Step::All } else { Step::Field(field) });
            }
        }
    }
    steps
}

fn parse_bracket(inside: &str) -> Step {
    let unquote = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    if inside == "*" {
        return Step::All;
    }
    if let Ok(index) = inside.parse() {
        return Step::Index(index);
    }
    let filter = inside.strip_prefix("?(").and_then(|f| f.strip_suffix(')')).and_then(|f| f.split_once("=="));
    match filter {
        Some((field, value)) => Step::Where(field.trim().trim_start_matches("@.").into(), unquote(value)),
        None => Step::Field(unquote(inside)),
    }
}

fn select<'a>(object: &'a Value, path: &[Step]) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in path {
        found = found
            .into_iter()
            .flat_map(|value| -> Vec<&Value> {
                match step {
                    Step::Field(field) => value.get(field).into_iter().collect(),
                    Step::Index(index) => value.get(index).into_iter().collect(),
                    Step::All => match value {
                        Value::Array(list) => list.iter().collect(),
                        Value::Object(map) => map.values().collect(),
                        _ => Vec::new(),
                    },
                    Step::Where(field, wanted) => value
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(|item| match &item[field] {
                            Value::String(text) => text == wanted,
                            other => *wanted == other.to_string().as_str(),
                        })
                        .collect(),
                }
            })
            .collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_path_selects_fields_indexes_and_filtered_items() {
        let object = json!({
            "metadata": {"labels": {"app.kubernetes.io/name": "web"}},
            "spec": {"ports": [{"n": 1}, {"n": 2}]},
            "status": {"conditions": [{"type": "A", "status": "no"}, {"type": "Ready", "status": "yes"}]},
        });
        let table = [
            (r".metadata.labels.app\.kubernetes\.io/name", vec![json!("web")]),
            (".spec.ports[1].n", vec![json!(2)]),
            (".spec.ports[*].n", vec![json!(1), json!(2)]),
            (r#".status.conditions[?(@.type=="Ready")].status"#, vec![json!("yes")]),
            (".spec['ports'][0].n", vec![json!(1)]),
            (".nothing.here", vec![]),
        ];
        for (path, wanted) in table {
            let found: Vec<Value> = select(&object, &parse(path)).into_iter().cloned().collect();
            assert_eq!(found, wanted, "{path}");
        }
    }
}
