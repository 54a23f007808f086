//! What a client says of its person, judged: only the known, of the right shape and size, and never who it is.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::broker::Aspect;
use crate::broker::Patch;

/// Bytes of `data` at most.
const DATA_BYTES_MAX: usize = 2048;
/// Bytes of an id within a document.
const PLACE_BYTES_MAX: usize = 128;
/// Coordinates are not further away than that: they are kept as they were written.
const COORDINATE_MAX: f64 = 1e9;
/// What a client may say of its status; `idle` also comes by itself.
const STATUSES: [&str; 5] = ["online", "away", "dnd", "idle", "offline"];

/// What a client may say; a part that is not there stays as it is, one that is `null` is forgotten.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Saying<'a> {
    #[serde(borrow, deserialize_with = "given")]
    status: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "given")]
    cursor: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "given")]
    selection: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "given")]
    typing: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "given")]
    data: Option<&'a RawValue>,
}

/// `null` is something that was said.
fn given<'de: 'a, 'a, D: serde::Deserializer<'de>>(source: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(source).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    x: f64,
    y: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selection<'a> {
    #[serde(borrow)]
    slide_id: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    element_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    range: Option<Range>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    start: u32,
    end: u32,
}

impl Saying<'_> {
    /// What changes by it.
    ///
    /// # Errors
    /// The name of the part that is wrong.
    pub fn patch(&self) -> Result<Patch, &'static str> {
        let parts = [
            (Aspect::Status, self.status),
            (Aspect::Cursor, self.cursor),
            (Aspect::Selection, self.selection),
            (Aspect::Typing, self.typing),
            (Aspect::Data, self.data),
        ];
        let mut patch = Patch::new();
        for (aspect, said) in parts {
            let Some(said) = said.map(RawValue::get) else { continue };
            patch.insert(aspect, judged(aspect, said)?);
        }
        Ok(patch)
    }
}

/// The part as it is kept, on one line.
fn judged(aspect: Aspect, text: &str) -> Result<Option<std::sync::Arc<str>>, &'static str> {
    if text == "null" || (aspect == Aspect::Typing && text == "false") {
        return Ok(None);
    }
    let good = match aspect {
        Aspect::Status => serde_json::from_str(text).is_ok_and(|status: &str| STATUSES.contains(&status)),
        // A derived struct also reads an array, by position.
        Aspect::Cursor | Aspect::Selection if !text.starts_with('{') => false,
        Aspect::Cursor => serde_json::from_str(text).is_ok_and(|Cursor { x, y }| is_near(x) && is_near(y)),
        Aspect::Selection => serde_json::from_str(text).is_ok_and(|selection: Selection<'_>| selection.is_good()),
        Aspect::Typing => text == "true",
        Aspect::Data => text.len() <= DATA_BYTES_MAX && text.starts_with('{'),
    };
    if !good {
        return Err(aspect.as_str());
    }
    // As it was written, unless there are line breaks between the tokens; strings have none that are not escaped.
    if text.bytes().all(|byte| byte >= b' ') {
        return Ok(Some(text.into()));
    }
    let one_line = serde_json::from_str::<serde_json::Value>(text).map_err(|_| aspect.as_str())?.to_string();
    Ok(Some(one_line.into()))
}

fn is_near(coordinate: f64) -> bool {
    coordinate.is_finite() && coordinate.abs() <= COORDINATE_MAX
}

impl Selection<'_> {
    fn is_good(&self) -> bool {
        let is_place = |text: &str| (1..=PLACE_BYTES_MAX).contains(&text.len());
        let ordered = self.range.as_ref().is_none_or(|range| range.start <= range.end);
        is_place(&self.slide_id) && self.element_id.as_deref().is_none_or(is_place) && ordered
    }
}

#[cfg(test)]
mod tests {
    use super::Saying;
    use crate::broker::Aspect;

    fn patch(text: &str) -> Result<Vec<(Aspect, Option<String>)>, &'static str> {
        let saying: Saying<'_> = serde_json::from_str(text).map_err(|_| "json")?;
        let patch = saying.patch()?;
        Ok(patch.into_iter().map(|(aspect, said)| (aspect, said.map(|text| text.to_string()))).collect())
    }

    #[test]
    fn what_is_said_is_kept_on_one_line() {
        let said = patch("{\"cursor\": {\"x\": 1.5,\n \"y\": -2}, \"typing\": true, \"status\": \"dnd\"}").unwrap();
        let text = |text: &str| Some(text.to_owned());
        let wanted = vec![
            (Aspect::Status, text("\"dnd\"")),
            (Aspect::Cursor, text("{\"x\":1.5,\"y\":-2}")),
            (Aspect::Typing, text("true")),
        ];
        assert_eq!(said, wanted);
    }

    #[test]
    fn nothing_and_null_are_different() {
        assert_eq!(patch("{}").unwrap(), vec![]);
        assert_eq!(patch("{\"cursor\":null}").unwrap(), vec![(Aspect::Cursor, None)]);
        assert_eq!(patch("{\"typing\":false}").unwrap(), vec![(Aspect::Typing, None)]);
    }

    #[test]
    fn b93_what_is_wrong_is_named_and_nothing_else_gets_in() {
        let long = "x".repeat(3000);
        for (text, part) in [
            ("{\"cursor\":{\"x\":1}}", "cursor"),
            ("{\"cursor\":{\"x\":1,\"y\":1e300}}", "cursor"),
            ("{\"cursor\":{\"x\":1,\"y\":2,\"z\":3}}", "cursor"),
            ("{\"cursor\":[1,2]}", "cursor"),
            ("{\"cursor\":\"<b>\"}", "cursor"),
            ("{\"status\":\"here\"}", "status"),
            ("{\"status\":7}", "status"),
            ("{\"typing\":\"yes\"}", "typing"),
            ("{\"selection\":{}}", "selection"),
            ("{\"selection\":{\"slideId\":\"\"}}", "selection"),
            ("{\"selection\":{\"slideId\":\"s\",\"range\":{\"start\":2,\"end\":1}}}", "selection"),
            ("{\"data\":[]}", "data"),
            (&format!("{{\"data\":{{\"a\":\"{long}\"}}}}"), "data"),
        ] {
            assert_eq!(patch(text), Err(part), "{text}");
        }
        assert_eq!(
            patch("{\"name\":\"Eve\",\"userId\":\"ada\",\"color\":\"#000\"}").unwrap(),
            vec![],
            "not the client's to say"
        );
    }
}
