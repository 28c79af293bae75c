//! JSON patch (RFC 6902).

use serde_json::Value;

use super::raw::Raw;

/// How many operations a patch may have.
pub const MOST_OPERATIONS: usize = 10_000;

/// Why nothing is done.
#[derive(Debug)]
pub enum Wrong {
    /// It is no JSON patch.
    Malformed(String),
    /// It has so many operations.
    TooLong(usize),
    /// An operation cannot be done, or its `test` fails.
    DoesNotApply(String),
}

/// `value` with the operations of a patch's text done in turn. With `ignore_tests`, `test` operations are taken to hold.
///
/// # Errors
///
/// Nothing is done, and why.
pub fn json(value: &Value, patch: &str, ignore_tests: bool) -> Result<Value, Wrong> {
    let no_list = |why: &str| Wrong::Malformed(format!("a JSON patch is a list of operations: {why}"));
    let operations: Value = serde_json::from_str(patch).map_err(|error| no_list(&error.to_string()))?;
    let operations = operations.as_array().ok_or_else(|| no_list("this is none"))?;
    let is_text = |field: Option<&Value>| field.is_none_or(|field| field.is_string() || field.is_null());
    let is_one =
        |one: &Value| one.is_object() && ["op", "path", "from"].iter().all(|name| is_text(one.get(name)));
    if let Some(other) = operations.iter().find(|one| !is_one(one)) {
        return Err(no_list(&format!("{other} is none")));
    }
    if operations.len() > MOST_OPERATIONS {
        return Err(Wrong::TooLong(operations.len()));
    }
    let texts = Raw::read(patch).ok_or_else(|| no_list("it cannot be read"))?;
    let mut value = value.clone();
    for (index, operation) in operations.iter().enumerate() {
        let tested = texts.entry(index).and_then(|operation| operation.field("value"));
        operate(&mut value, operation, tested, ignore_tests)
            .map_err(|why| Wrong::DoesNotApply(format!("{operation}: {why}")))?;
    }
    Ok(value)
}

/// `tested`: the operation's value as it was written.
fn operate(
    value: &mut Value,
    operation: &Value,
    tested: Option<&Raw<'_>>,
    ignore_tests: bool,
) -> Result<(), String> {
    let path = |field: &str| operation[field].as_str().ok_or_else(|| format!("no {field}"));
    let new = || operation.get("value").cloned().ok_or("no value");
    let held =
        |value: &Value, path: &str| value.pointer(path).cloned().ok_or_else(|| format!("nothing at {path}"));
    let at = path("path")?;
    match operation["op"].as_str().unwrap_or_default() {
        "add" => add(value, at, new()?),
        "remove" => remove(value, at).map(drop),
        "replace" => {
            *value.pointer_mut(at).ok_or_else(|| format!("nothing at {at}"))? = new()?;
            Ok(())
        }
        "move" => {
            let moved = remove(value, path("from")?)?;
            add(value, at, moved)
        }
        "copy" => {
            let copied = held(value, path("from")?)?;
            add(value, at, copied)
        }
        "test" if ignore_tests => Ok(()),
        // A test for null holds where there is nothing, in a map that is there: so it is in the library that the real server uses.
        "test" => match (value.pointer(at), tested.unwrap_or(&Raw::Plain("null"))) {
            (None, Raw::Plain("null")) => {
                let parent = at.rsplit_once('/').and_then(|(parent, _)| value.pointer(parent));
                parent.filter(|parent| parent.is_object()).map(drop).ok_or(format!("nothing to hold {at}"))
            }
            (Some(held), wanted) if wanted.is(held) => Ok(()),
            (held, _) => Err(format!("it is {held:?}")),
        },
        other => Err(format!("unknown operation {other:?}")),
    }
}

/// The container of a path's last token, and that token.
fn place<'v>(value: &'v mut Value, path: &str) -> Result<(&'v mut Value, String), String> {
    let (parent, token) =
        path.rsplit_once('/').ok_or_else(|| format!("{path:?} is no place in an object"))?;
    let parent = value.pointer_mut(parent).ok_or_else(|| format!("nothing at {parent}"))?;
    Ok((parent, token.replace("~1", "/").replace("~0", "~")))
}

fn add(value: &mut Value, path: &str, new: Value) -> Result<(), String> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    let (parent, token) = place(value, path)?;
    match parent {
        Value::Object(fields) => {
            fields.insert(token, new);
            Ok(())
        }
        Value::Array(all) => {
            let index = if token == "-" { all.len() } else { token.parse().map_err(|_| "no index")? };
            if index > all.len() {
                return Err(format!("index {index} is beyond the end"));
            }
            all.insert(index, new);
            Ok(())
        }
        _ => Err(format!("{path} is in no container")),
    }
}

fn remove(value: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, token) = place(value, path)?;
    let removed = match parent {
        Value::Object(fields) => fields.remove(&token),
        Value::Array(all) => match token.parse::<usize>() {
            Ok(index) if index < all.len() => Some(all.remove(index)),
            _ => None,
        },
        _ => None,
    };
    removed.ok_or_else(|| format!("nothing at {path}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn operations_are_done_in_turn_or_not_at_all() {
        let value = json!({"a": {"b/c": 1}, "l": [1, 2]});
        let done = super::json(
            &value,
            &json!([
                {"op": "test", "path": "/a/b~1c", "value": 1},
                {"op": "test", "path": "/a/none", "value": null},
                {"op": "add", "path": "/l/-", "value": 3},
                {"op": "remove", "path": "/l/0"},
                {"op": "replace", "path": "/a/b~1c", "value": "x"},
                {"op": "copy", "from": "/l", "path": "/m"},
                {"op": "move", "from": "/l", "path": "/n"},
            ])
            .to_string(),
            false,
        );
        assert_eq!(done.unwrap(), json!({"a": {"b/c": "x"}, "m": [2, 3], "n": [2, 3]}));
        for wrong in [
            json!([{"op": "test", "path": "/a/b~1c", "value": 2}]),
            json!([{"op": "test", "path": "/a/b~1c", "value": null}]),
            json!([{"op": "test", "path": "/none", "value": 2}]),
            json!([{"op": "test", "path": "/none/x", "value": null}]),
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "replace", "path": "/none", "value": 1}]),
            json!([{"op": "add", "path": "/none/x", "value": 1}]),
            json!([{"op": "add", "path": "/l/9", "value": 1}]),
        ] {
            assert!(super::json(&value, &wrong.to_string(), false).is_err(), "{wrong}");
        }
    }
}
