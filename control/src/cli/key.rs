//! `penstock key psk`.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::json;

use super::{Failure, Streams, YES};
use crate::admin::SCHEMA;
use crate::psk;

pub(super) fn psk(out: Option<&Path>, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let Some(path) = out else {
        let key = psk::generate().map_err(|error| Failure::error(format!("no key was made: {error}")))?;
        match json {
            true => streams.json(&json!({ "schema": SCHEMA, "psk": *key }))?,
            false => streams.answer_line(&key)?,
        }
        return Ok(YES);
    };
    psk::generate_file(path).map_err(|error| {
        let shown = path.display();
        Failure::error(match error.kind() {
            ErrorKind::AlreadyExists => {
                format!("{shown} exists and is left as it is; name another file, or remove that one first if no peer uses it")
            }
            _ => format!("{shown} cannot be written ({})", psk::plain(&error)),
        })
    })?;
    if json {
        streams.json(&json!({ "schema": SCHEMA, "ok": true, "file": path.display().to_string() }))?;
    } else {
        streams.complain(&format!("a new key is in {}; bring the same file to the other site by a safe way", path.display()));
    }
    Ok(YES)
}
