//! What an event's data says, as upstream's claim `details`: nothing, where the data has not the form of its type.
//!
//! TCG PC Client Platform Firmware Profile 1.06, 10.4 and 10.2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::device_path;
use crate::cursor::Cursor;

pub(super) fn details(kind: u32, data: &[u8]) -> Value {
    let details = match kind {
        super::EV_POST_CODE
        | super::EV_ACTION
        | super::EV_COMPACT_HASH
        | super::EV_OMIT_BOOT_DEVICE_EVENTS
        | super::EV_EFI_ACTION => text(data).map(string),
        super::EV_IPL => Some(string(boot_loader(data))),
        super::EV_EVENT_TAG => tagged(data),
        super::EV_PLATFORM_CONFIG_FLAGS => Some(string(configuration(data))),
        super::EV_EFI_PLATFORM_FIRMWARE_BLOB2 | super::EV_EFI_HANDOFF_TABLES2 => described(data),
        super::EV_EFI_VARIABLE_DRIVER_CONFIG
        | super::EV_EFI_VARIABLE_BOOT
        | super::EV_EFI_VARIABLE_BOOT2
        | super::EV_EFI_VARIABLE_AUTHORITY => variable(data),
        super::EV_EFI_BOOT_SERVICES_APPLICATION => image(data),
        _ => None,
    };
    details.unwrap_or_else(|| Value::Object(Map::new()))
}

fn string(text: String) -> Value {
    json!({ "string": text })
}

/// The text without the zeros in it.
fn text(data: &[u8]) -> Option<String> {
    std::str::from_utf8(data)
        .ok()
        .map(|text| text.replace('\0', ""))
}

/// What a boot loader says that it measured. A unified kernel image's stub names a section, in UTF-16 and with a full
/// stop before it; GRUB writes a text that ends at its first zero, whatever follows.
fn boot_loader(data: &[u8]) -> String {
    if let Some(section) = data.strip_prefix(&[b'.', 0]) {
        return device_path::utf16(section);
    }
    let end = data.iter().position(|byte| *byte == 0);
    let text = data.get(..end.unwrap_or(data.len())).unwrap_or_default();
    std::str::from_utf8(text).map_or_else(|_| hex::encode(data), str::to_owned)
}

/// 10.4.2.1: an id, and data that has its length before it. The attestation agent's events are of the id `AAEL`, and
/// have a domain, an operation and a content between blanks.
fn tagged(data: &[u8]) -> Option<Value> {
    let mut cursor = Cursor::new(data);
    let id = cursor.u32()?;
    let text = text(cursor.counted()?)?;
    if id != AGENT_EVENT {
        return Some(string(text));
    }
    let mut parts = text.splitn(3, ' ');
    let (domain, operation, content) = (parts.next()?, parts.next()?, parts.next()?);
    let content = serde_json::from_str::<Value>(content).unwrap_or_else(|_| json!(content));
    Some(json!({
        "data": { "domain": domain, "operation": operation, "content": content },
        "string": text,
        "unicode_name": "AAEL",
    }))
}

/// What is printable of a configuration that is a text, with a blank for each byte 16: in what td-shim measures, that
/// byte is of the length which stands between a name and its value.
fn configuration(data: &[u8]) -> String {
    std::str::from_utf8(data)
        .unwrap_or_default()
        .replace('\u{10}', " ")
        .chars()
        .filter(|character| !character.is_control())
        .collect()
}

/// `UEFI_PLATFORM_FIRMWARE_BLOB2` and `UEFI_HANDOFF_TABLE_POINTERS2` both begin with a description.
fn described(data: &[u8]) -> Option<Value> {
    let mut cursor = Cursor::new(data);
    let length = usize::from(cursor.u8()?);
    text(cursor.take(length)?).map(string)
}

/// `UEFI_VARIABLE_DATA`. The name is a GUID, printed in the order of its bytes, and a text of UTF-16.
fn variable(data: &[u8]) -> Option<Value> {
    let mut cursor = Cursor::new(data);
    let guid: [u8; 16] = cursor.array()?;
    let name_length = cursor.u64()?;
    let data_length = cursor.u64()?;
    let name = cursor.take(usize::try_from(name_length).ok()?.checked_mul(2)?)?;
    let data = cursor.take(usize::try_from(data_length).ok()?)?;
    let [a, b, c, d, e] =
        [(0, 4), (4, 2), (6, 2), (8, 2), (10, 6)].map(|(start, length): (usize, usize)| {
            hex::encode(
                guid.get(start..start.saturating_add(length))
                    .unwrap_or_default(),
            )
        });
    Some(json!({
        "unicode_name": device_path::utf16(name),
        "unicode_name_length": name_length,
        "variable_data": STANDARD.encode(data),
        "variable_data_length": data_length,
        "variable_name": format!("{a}-{b}-{c}-{d}-{e}"),
    }))
}

/// `UEFI_IMAGE_LOAD_EVENT`: where the image was loaded, and from where.
fn image(data: &[u8]) -> Option<Value> {
    let mut cursor = Cursor::new(data);
    // Its place in memory, its length there, and the address that it was linked for.
    cursor.take(24)?;
    let length = usize::try_from(cursor.u64()?).ok()?;
    if length == 0 {
        return None;
    }
    let nodes = device_path::nodes(cursor.take(length)?)?;
    Some(json!({ "device_paths": nodes }))
}

/// `AAEL`, as a little-endian number.
const AGENT_EVENT: u32 = 0x4141_454c;
