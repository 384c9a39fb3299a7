//! UEFI device paths as text, one text per node (UEFI 2.10, 10.3 and 10.6.1.6).
//!
//! The nodes that policies look at have the texts that upstream gives them: a PCI node with its function first, an ACPI
//! node with its whole id. Every other node has the specification's general text.

use crate::cursor::Cursor;

/// The nodes of a path, up to the one that ends it.
pub(super) fn nodes(path: &[u8]) -> Option<Vec<String>> {
    let mut cursor = Cursor::new(path);
    let mut nodes = Vec::new();
    while cursor.remaining() > 0 {
        let (kind, sub_kind, length) = (cursor.u8()?, cursor.u8()?, cursor.u16()?);
        let data = cursor.take(usize::from(length).checked_sub(NODE_HEADER)?)?;
        if (kind, sub_kind) == END_OF_PATH {
            break;
        }
        nodes.push(node(kind, sub_kind, data).unwrap_or_else(|| general(kind, sub_kind, data)));
    }
    Some(nodes)
}

/// UTF-16, little-endian, without the zeros that end it.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .filter_map(|pair| pair.first_chunk().copied().map(u16::from_le_bytes))
        .collect();
    String::from_utf16_lossy(&units)
        .trim_end_matches('\0')
        .to_owned()
}

fn node(kind: u8, sub_kind: u8, data: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(data);
    match (kind, sub_kind) {
        (1, 1) => Some(format!("Pci({},{})", cursor.u8()?, cursor.u8()?)),
        (2, 1) => {
            let (hid, uid) = (cursor.u32()?, cursor.u32()?);
            Some(format!("ACPI({},{uid})", eisa_id(hid)?))
        }
        (4, 1) => hard_drive(cursor),
        (4, 3) => {
            let guid = guid(cursor.array()?);
            Some(format!("VenMedia({guid},{})", hex::encode(cursor.rest())))
        }
        (4, 4) => Some(format!("File({})", utf16(data))),
        _ => None,
    }
}

fn general(kind: u8, sub_kind: u8, data: &[u8]) -> String {
    format!("Path({kind},{sub_kind},{})", hex::encode(data))
}

/// An ACPI id: three letters of five bits, and a number.
fn eisa_id(hid: u32) -> Option<String> {
    let letter = |shift: u32| char::from_u32(((hid >> shift) & 0x1f).checked_add(0x40)?);
    Some(format!(
        "{}{}{}{:04X}",
        letter(10)?,
        letter(5)?,
        letter(0)?,
        hid >> 16
    ))
}

fn hard_drive(mut cursor: Cursor<'_>) -> Option<String> {
    let (partition, start, size) = (cursor.u32()?, cursor.u64()?, cursor.u64()?);
    let signature: [u8; 16] = cursor.array()?;
    let (format, signature) = match cursor.u8()? {
        1 => {
            let disk = u32::from_le_bytes(*signature.first_chunk()?);
            ("MBR", format!("{disk:#010x}"))
        }
        2 => ("GPT", guid(signature)),
        _ => return None,
    };
    let extent = match partition {
        0 => String::new(),
        _ => format!(",{start:#x},{size:#x}"),
    };
    Some(format!("HD({partition},{format},{signature}{extent})"))
}

/// A GUID as EFI writes it: its first three fields are little-endian.
fn guid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let first = u32::from_le_bytes([a, b, c, d]);
    let second = u16::from_le_bytes([e, f]);
    let third = u16::from_le_bytes([g, h]);
    let rest = u64::from_be_bytes(rest);
    format!(
        "{first:08X}-{second:04X}-{third:04X}-{:04X}-{:012X}",
        rest >> 48,
        rest & 0xffff_ffff_ffff
    )
}

const NODE_HEADER: usize = 4;
const END_OF_PATH: (u8, u8) = (0x7f, 0xff);
