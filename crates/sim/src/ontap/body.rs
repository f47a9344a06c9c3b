//! Request bodies: dotted keys made nested, every field checked against the table, values read leniently as the
//! array does (numbers and booleans may come as strings, sizes with a suffix).

use serde_json::{Map, Value};

use super::call::boolean;
use super::error::{ApiError, INVALID_VALUE};
use super::schema::{Resource, Setter};
use super::size::parse_size;
use super::version::Version;

/// A JSON object.
#[derive(Debug, Default, Clone)]
pub(crate) struct Body(Value);

impl Body {
    /// Reads the bytes of a body; nothing at all is an empty object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Value::Object(Map::new())));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(members)) => Ok(Self(nest(members))),
            _ => Err(INVALID_VALUE.error("the request body is not a JSON object")),
        }
    }

    /// Refuses fields that do not exist in this release or cannot be set by this request.
    pub(crate) fn check(&self, resource: Resource, setter: Setter, version: Version) -> Result<(), ApiError> {
        let mut paths = Vec::new();
        leaves(&self.0, String::new(), &mut paths);
        paths.iter().try_for_each(|path| resource.check_setter(path, setter, version))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_object().is_none_or(Map::is_empty)
    }

    /// The value at a dotted path; `null` counts as absent.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        let found = path.split('.').try_fold(&self.0, |at, part| at.get(part))?;
        (!found.is_null()).then_some(found)
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.get(path).is_some()
    }

    pub(crate) fn text(&self, path: &str) -> Result<Option<String>, ApiError> {
        match self.get(path) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(ApiError::bad_value(&other.to_string(), path)),
        }
    }

    /// A text no longer than `max` bytes.
    pub(crate) fn short_text(&self, path: &str, max: usize) -> Result<Option<String>, ApiError> {
        let text = self.text(path)?;
        match &text {
            Some(long) if long.len() > max => Err(ApiError::bad_value(long, path)),
            _ => Ok(text),
        }
    }

    /// Bytes: a number, or a string with or without a suffix.
    pub(crate) fn size(&self, path: &str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(path) else { return Ok(None) };
        let size = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => parse_size(text),
            _ => None,
        };
        size.map(Some).ok_or_else(|| ApiError::bad_value(&plain(value), path))
    }

    pub(crate) fn flag(&self, path: &str) -> Result<Option<bool>, ApiError> {
        match self.get(path) {
            None => Ok(None),
            Some(Value::Bool(it)) => Ok(Some(*it)),
            Some(other) => boolean(path, &plain(other)).map(Some),
        }
    }

    /// A whole number of at most `max`.
    pub(crate) fn small<T: TryFrom<u64>>(&self, path: &str, max: u64) -> Result<Option<T>, ApiError> {
        let Some(number) = self.size(path)? else { return Ok(None) };
        let fits = T::try_from(number).ok().filter(|_| number <= max);
        fits.map(Some).ok_or_else(|| ApiError::bad_value(&number.to_string(), path))
    }

    /// One of the `allowed` words.
    pub(crate) fn word(
        &self,
        path: &str,
        allowed: &[&'static str],
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.text(path)? else { return Ok(None) };
        let found = allowed.iter().find(|word| **word == text);
        found.copied().map(Some).ok_or_else(|| ApiError::bad_value(&text, path))
    }

    /// The objects of an array.
    pub(crate) fn items(&self, path: &str) -> Result<Option<Vec<Self>>, ApiError> {
        match self.get(path) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                items.iter().map(|item| Self::item(item, path)).collect::<Result<_, _>>().map(Some)
            }
            Some(other) => Err(ApiError::bad_value(&other.to_string(), path)),
        }
    }

    fn item(value: &Value, path: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(members) => Ok(Self(nest(members.clone()))),
            other => Err(ApiError::bad_value(&other.to_string(), path)),
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `{"a.b": 1}` becomes `{"a": {"b": 1}}`, at every level.
fn nest(members: Map<String, Value>) -> Value {
    let mut root = Value::Object(Map::new());
    for (key, value) in members {
        let value = match value {
            Value::Object(inner) => nest(inner),
            Value::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(|it| if let Value::Object(inner) = it { nest(inner) } else { it })
                    .collect(),
            ),
            other => other,
        };
        insert(&mut root, &key, value);
    }
    root
}

fn insert(root: &mut Value, key: &str, value: Value) {
    let Value::Object(members) = root else { return };
    match key.split_once('.') {
        None => merge(members.entry(key.to_owned()).or_insert(Value::Null), value),
        Some((head, rest)) => {
            let inner = members.entry(head.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            insert(inner, rest, value);
        }
    }
}

fn merge(place: &mut Value, value: Value) {
    match (place, value) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (place, value) => *place = value,
    }
}

/// The dotted paths of everything that has a value.
fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| leaves(value, inner(name), found));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                leaves(item, path.clone(), found);
            }
        }
        _ if path.is_empty() => {}
        _ => found.push(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Version = Version::new(9, 16, 1);

    #[test]
    fn dotted_and_nested_keys_are_the_same() {
        let body =
            Body::parse(br#"{"svm.name":"s","space":{"size":"1GB"},"space.guarantee.requested":"False"}"#);
        let body = body.unwrap();
        assert_eq!(body.text("svm.name").unwrap().as_deref(), Some("s"));
        assert_eq!(body.size("space.size").unwrap(), Some(1 << 30));
        assert_eq!(body.flag("space.guarantee.requested").unwrap(), Some(false));
    }

    #[test]
    fn unknown_and_read_only_fields_are_refused() {
        let check = |text: &str, setter| {
            let body = Body::parse(text.as_bytes()).unwrap();
            body.check(Resource::Volume, setter, NEW).map_err(|error| (error.code, error.target))
        };
        assert_eq!(check(r#"{"name":"v","aggregates":[{"name":"a"}]}"#, Setter::Post), Ok(()));
        let nonsense = Err((262_179, Some("aggregates.nonsense".to_owned())));
        assert_eq!(check(r#"{"aggregates":[{"nonsense":1}]}"#, Setter::Post), nonsense);
        assert_eq!(check(r#"{"uuid":"x"}"#, Setter::Post), Err((262_196, Some("uuid".to_owned()))));
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for text in ["[]", "1", "{", "null"] {
            assert_eq!(Body::parse(text.as_bytes()).unwrap_err().code, 2, "{text}");
        }
        assert!(Body::parse(b" ").unwrap().is_empty());
    }
}
