//! Shapes of JSON values, and the losses from one value to another.
//!
//! Invariant: the order of an object's fields means nothing, and a field that is null counts as one
//! that is not there.

use serde_json::Value;

/// Returns the shape of a value: its kind, and the names and shapes of its fields, without what
/// they hold.
pub(super) fn of(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => "bool".into(),
        Value::Number(number) if number.is_f64() => "float".into(),
        Value::Number(_) => "integer".into(),
        Value::String(_) => "text".into(),
        Value::Array(elements) => {
            let mut shapes: Vec<Value> = Vec::new();
            for shape in elements.iter().map(of) {
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
            shapes.into()
        }
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), of(value))).collect())
        }
    }
}

/// Returns the path to the first value in `before` that `after` lacks or has otherwise. A value
/// that only `after` has is no loss.
pub(super) fn lost(before: &Value, after: &Value) -> Option<String> {
    let mut path = Vec::new();
    find_lost(before, after, &mut path).then(|| {
        let path: String = path.iter().rev().map(String::as_str).collect();
        match path.trim_start_matches('.') {
            "" => ".".to_owned(),
            path => path.to_owned(),
        }
    })
}

/// True if a value is lost. Its path is collected in `path`, from the end.
fn find_lost(before: &Value, after: &Value, path: &mut Vec<String>) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before.iter().any(|(name, value)| {
            let lost = match after.get(name) {
                Some(after) => find_lost(value, after, path),
                None => !value.is_null(),
            };
            if lost {
                path.push(format!(".{name}"));
            }
            lost
        }),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            // A set may come back in another order.
            let elsewhere =
                |value: &Value| after.iter().any(|after| !find_lost(value, after, &mut Vec::new()));
            before.iter().zip(after).enumerate().any(|(index, (value, after))| {
                let lost = find_lost(value, after, path) && {
                    let moved = elsewhere(value);
                    if moved {
                        path.clear();
                    }
                    !moved
                };
                if lost {
                    path.push(format!("[{index}]"));
                }
                lost
            })
        }
        (before, after) => before != after,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shape_is_blind_to_what_fields_hold() {
        let shape = of(&json!({ "a": 1, "b": [1, 2, "x"], "c": null, "d": 0.5 }));
        assert_eq!(
            shape,
            json!({ "a": "integer", "b": ["integer", "text"], "c": null, "d": "float" })
        );
    }

    #[test]
    fn what_is_lost_is_named() {
        let before = json!({ "a": { "b": [1, { "c": "x" }] }, "n": null });
        for (after, field) in [
            (before.clone(), None),
            (json!({ "a": { "b": [1, { "c": "x", "d": 1 }] }, "e": 2 }), None),
            (json!({ "a": { "b": [{ "c": "x" }, 1] } }), None),
            (json!({ "a": { "b": [1, { "c": "y" }] } }), Some("a.b[1].c")),
            (json!({ "a": { "b": [1, {}] } }), Some("a.b[1].c")),
            (json!({ "a": { "b": [1] } }), Some("a.b")),
            (json!({ "a": { "b": [1.0, { "c": "x" }] } }), Some("a.b[0]")),
            (json!(1), Some(".")),
        ] {
            assert_eq!(lost(&before, &after).as_deref(), field, "{after}");
        }
    }
}
