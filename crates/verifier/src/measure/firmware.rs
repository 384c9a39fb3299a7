//! An OVMF image as far as its launch depends on it: the table of GUIDs at its end, and the metadata sections for
//! SEV that one entry points to (edk2, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` and
//! `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`).

use super::MeasureError;
use super::digest::PAGE;
use super::direct_boot::TABLE_ROOM;

/// The largest image that is measured: four times what a distribution ships.
pub const MAX_FIRMWARE: usize = 16 * 1024 * 1024;

/// A firmware image and what it asks of whoever launches it.
#[derive(Clone, Debug)]
pub struct Firmware<'a> {
    image: &'a [u8],
    base: u64,
    sections: Vec<Section>,
    reset_address: Option<u32>,
    hashes_table: Option<HashesTable>,
}

impl<'a> Firmware<'a> {
    /// Reads an image: a build of OVMF that is one file, code and variables.
    ///
    /// # Errors
    /// [`MeasureError::FirmwareLength`], [`MeasureError::Firmware`] when nothing in it is for SNP.
    pub fn parse(image: &'a [u8]) -> Result<Self, MeasureError> {
        if image.is_empty() || image.len() > MAX_FIRMWARE || !image.len().is_multiple_of(PAGE) {
            return Err(MeasureError::FirmwareLength {
                actual: image.len(),
                limit: MAX_FIRMWARE,
            });
        }
        let length = u64::try_from(image.len()).map_err(|_| firmware("it is too long"))?;
        let entries = entries(image)?;
        let entry = |wanted: [u8; 16]| {
            entries
                .iter()
                .find(|(id, _)| *id == wanted)
                .map(|(_, content)| *content)
        };
        let metadata = entry(SEV_METADATA)
            .and_then(first_u32)
            .ok_or_else(|| firmware("its table has no metadata for SEV"))?;
        Ok(Self {
            image,
            base: FOUR_GIB - length,
            sections: sections(image, metadata)?,
            reset_address: entry(SEV_ES_RESET_BLOCK).and_then(first_u32),
            hashes_table: entry(SEV_HASH_TABLE).and_then(HashesTable::parse),
        })
    }

    pub(super) fn image(&self) -> &[u8] {
        self.image
    }

    /// Where the image begins: it ends at 4 GiB.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
    }

    /// Where every vCPU but the first starts.
    pub(super) fn reset_address(&self) -> Result<u32, MeasureError> {
        self.reset_address.ok_or_else(|| {
            firmware("its table has no SEV-ES reset address, so it starts one vCPU only")
        })
    }

    /// Where in the page of hashes their table begins.
    pub(super) fn hashes_table(&self) -> Result<usize, MeasureError> {
        let table = self.hashes_table.ok_or(MeasureError::NoKernelHashes)?;
        let room = usize::try_from(table.size).unwrap_or(usize::MAX);
        let offset = usize::try_from(table.address).unwrap_or(usize::MAX) % PAGE;
        let page = u64::from(table.address) / PAGE_U64 * PAGE_U64;
        let within = self
            .sections()
            .any(|section| section.kind == SectionKind::KernelHashes && section.address == page);
        match within && room >= TABLE_ROOM && offset <= PAGE - TABLE_ROOM {
            true => Ok(offset),
            false => Err(firmware(format!(
                "its table of hashes at {:#x} has no room in the page that its metadata has for it",
                table.address
            ))),
        }
    }
}

/// Guest memory that the hypervisor adds besides the image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Section {
    pub(super) kind: SectionKind,
    pub(super) address: u64,
    pub(super) pages: u32,
}

/// What a section is for, by the number that the metadata has for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SectionKind {
    SecMem,
    Secrets,
    Cpuid,
    SvsmCaa,
    KernelHashes,
}

impl SectionKind {
    fn parse(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::SecMem,
            2 => Self::Secrets,
            3 => Self::Cpuid,
            4 => Self::SvsmCaa,
            0x10 => Self::KernelHashes,
            _ => return None,
        })
    }

    /// Whether it is one page by definition.
    fn is_one_page(self) -> bool {
        matches!(self, Self::Secrets | Self::Cpuid | Self::KernelHashes)
    }
}

#[derive(Clone, Copy, Debug)]
struct HashesTable {
    address: u32,
    size: u32,
}

impl HashesTable {
    /// Builds that check no hashes have an entry of zeros.
    fn parse(content: &[u8]) -> Option<Self> {
        let (address, rest) = split_u32(content)?;
        let (size, _) = split_u32(rest)?;
        (address != 0).then_some(Self { address, size })
    }
}

/// A GUID and what the table has for it.
type Entry<'a> = ([u8; 16], &'a [u8]);

/// The table's entries, from its end backwards as QEMU reads it: content, length of the whole entry, GUID.
fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, MeasureError> {
    let no_table = || firmware("there is no table of GUIDs at its end, so it is not OVMF");
    let end = image.len().checked_sub(AFTER_TABLE).ok_or_else(no_table)?;
    let (body, footer) = image
        .get(..end)
        .and_then(|image| image.split_last_chunk::<ENTRY_HEADER>())
        .ok_or_else(no_table)?;
    let (length, id) = header(footer);
    if id != TABLE_FOOTER {
        return Err(no_table());
    }
    let mut table = usize::from(length)
        .checked_sub(ENTRY_HEADER)
        .and_then(|length| body.len().checked_sub(length))
        .and_then(|start| body.get(start..))
        .ok_or_else(|| firmware("the table at its end has an impossible length"))?;
    let mut entries = Vec::new();
    while let Some((before, entry)) = table.split_last_chunk::<ENTRY_HEADER>() {
        let (length, id) = header(entry);
        let start = usize::from(length)
            .checked_sub(ENTRY_HEADER)
            .and_then(|length| before.len().checked_sub(length))
            .ok_or_else(|| firmware("an entry of the table at its end has an impossible length"))?;
        let (rest, content) = before
            .split_at_checked(start)
            .ok_or_else(|| firmware("an entry of the table at its end has an impossible length"))?;
        entries.push((id, content));
        table = rest;
    }
    Ok(entries)
}

fn header(bytes: &[u8; ENTRY_HEADER]) -> (u16, [u8; 16]) {
    let [low, high, id @ ..] = *bytes;
    (u16::from_le_bytes([low, high]), id)
}

/// The sections of the metadata that lies `from_end` bytes before the image's end.
fn sections(image: &[u8], from_end: u32) -> Result<Vec<Section>, MeasureError> {
    let outside = || firmware("its metadata for SEV lies outside the image");
    let start = usize::try_from(from_end)
        .ok()
        .and_then(|from_end| image.len().checked_sub(from_end))
        .ok_or_else(outside)?;
    let rest = image.get(start..).ok_or_else(outside)?;
    let (signature, rest) = split_u32(rest).ok_or_else(outside)?;
    let (length, rest) = split_u32(rest).ok_or_else(outside)?;
    let (version, rest) = split_u32(rest).ok_or_else(outside)?;
    let (count, mut rest) = split_u32(rest).ok_or_else(outside)?;
    if signature.to_le_bytes() != *b"ASEV" || version != 1 {
        return Err(firmware("its metadata for SEV is not of version 1"));
    }
    if count > MAX_SECTIONS {
        return Err(firmware(format!(
            "its metadata lists {count} sections, at most {MAX_SECTIONS}"
        )));
    }
    // The length covers the header and its sections; a signature or a later addition may follow.
    if u64::from(length) < 16 + 12 * u64::from(count) {
        return Err(firmware("its metadata is shorter than its own list"));
    }
    let mut sections = Vec::new();
    for _ in 0..count {
        let (address, after) = split_u32(rest).ok_or_else(outside)?;
        let (size, after) = split_u32(after).ok_or_else(outside)?;
        let (number, after) = split_u32(after).ok_or_else(outside)?;
        rest = after;
        sections.push(section(address, size, number)?);
    }
    let pages: u64 = sections.iter().map(|one| u64::from(one.pages)).sum();
    match pages > MAX_PAGES {
        true => Err(firmware(format!(
            "its sections have {pages} pages, at most {MAX_PAGES}"
        ))),
        false => Ok(sections),
    }
}

fn section(address: u32, size: u32, number: u32) -> Result<Section, MeasureError> {
    let bad = |what: &str| firmware(format!("its section at {address:#x} {what}"));
    let kind =
        SectionKind::parse(number).ok_or_else(|| bad(&format!("is of unknown kind {number}")))?;
    let address = u64::from(address);
    let bytes = u64::from(size);
    if size == 0 || !address.is_multiple_of(PAGE_U64) || !bytes.is_multiple_of(PAGE_U64) {
        return Err(bad("is not made of whole pages"));
    }
    let pages = size / PAGE_U32;
    if kind.is_one_page() && pages != 1 {
        return Err(bad(&format!("has {pages} pages where there is one")));
    }
    Ok(Section {
        kind,
        address,
        pages,
    })
}

fn first_u32(bytes: &[u8]) -> Option<u32> {
    split_u32(bytes).map(|(number, _)| number)
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

fn firmware(detail: impl Into<String>) -> MeasureError {
    MeasureError::Firmware(detail.into())
}

/// A GUID's bytes as UEFI stores them: three little-endian numbers, then eight bytes as they are written.
pub(super) const fn guid(first: u32, second: u16, third: u16, last: u64) -> [u8; 16] {
    let [a, b, c, d] = first.to_le_bytes();
    let [e, f] = second.to_le_bytes();
    let [g, h] = third.to_le_bytes();
    let [i, j, k, l, m, n, o, p] = last.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

const TABLE_FOOTER: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
const SEV_HASH_TABLE: [u8; 16] = guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
const SEV_ES_RESET_BLOCK: [u8; 16] = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
const SEV_METADATA: [u8; 16] = guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);

/// The reset vector's code follows the table.
const AFTER_TABLE: usize = 32;
const ENTRY_HEADER: usize = 18;
const FOUR_GIB: u64 = 1 << 32;
const PAGE_U32: u32 = 4096;
const PAGE_U64: u64 = 4096;

/// OVMF lists fewer than ten sections, of fewer than 100 pages together.
const MAX_SECTIONS: u32 = 64;
const MAX_PAGES: u64 = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// What an image made for a test says of itself.
    pub(in crate::measure) struct Image {
        pub(in crate::measure) pages: usize,
        /// Address, size, kind.
        pub(in crate::measure) sections: Vec<(u32, u32, u32)>,
        pub(in crate::measure) reset_address: Option<u32>,
        pub(in crate::measure) hashes_table: Option<(u32, u32)>,
        pub(in crate::measure) metadata_version: u32,
    }

    impl Default for Image {
        fn default() -> Self {
            Self {
                pages: 3,
                sections: vec![
                    (0x80_0000, 0x9000, 1),
                    (0x80_d000, 0x1000, 2),
                    (0x80_e000, 0x1000, 3),
                    (0x81_0000, 0x1000, 0x10),
                    (0x80_f000, 0x1000, 4),
                ],
                reset_address: Some(0x80_b004),
                hashes_table: Some((0x81_0c00, 0x400)),
                metadata_version: 1,
            }
        }
    }

    impl Image {
        pub(in crate::measure) fn bytes(&self) -> Vec<u8> {
            let length = self.pages * PAGE;
            let mut image: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let count = u32::try_from(self.sections.len()).unwrap();
            let mut metadata = b"ASEV".to_vec();
            for number in [16 + 12 * count, self.metadata_version, count] {
                metadata.extend(number.to_le_bytes());
            }
            for (address, size, kind) in &self.sections {
                for number in [address, size, kind] {
                    metadata.extend(number.to_le_bytes());
                }
            }
            image[METADATA..METADATA + metadata.len()].copy_from_slice(&metadata);
            let mut table = Vec::new();
            let mut entry = |id: [u8; 16], numbers: &[u32]| {
                table.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
                table.extend(u16::try_from(18 + 4 * numbers.len()).unwrap().to_le_bytes());
                table.extend(id);
            };
            entry(SEV_METADATA, &[u32::try_from(length - METADATA).unwrap()]);
            if let Some((address, size)) = self.hashes_table {
                entry(SEV_HASH_TABLE, &[address, size]);
            }
            if let Some(address) = self.reset_address {
                entry(SEV_ES_RESET_BLOCK, &[address]);
            }
            table.extend(u16::try_from(table.len() + 18).unwrap().to_le_bytes());
            table.extend(TABLE_FOOTER);
            let end = length - AFTER_TABLE;
            image[end - table.len()..end].copy_from_slice(&table);
            image
        }
    }

    const METADATA: usize = 0x200;

    #[track_caller]
    fn refused(image: &Image, why: &str) {
        let error = Firmware::parse(&image.bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn image_is_read_as_something_else_than_it_says() {
        let bytes = Image::default().bytes();
        let firmware = Firmware::parse(&bytes).unwrap();
        assert_eq!(firmware.base(), (1 << 32) - 3 * 4096);
        assert_eq!(firmware.reset_address(), Ok(0x80_b004));
        assert_eq!(firmware.hashes_table(), Ok(0xc00));
        let kinds: Vec<_> = firmware
            .sections()
            .map(|one| (one.kind, one.pages))
            .collect();
        assert_eq!(
            kinds,
            [
                (SectionKind::SecMem, 9),
                (SectionKind::Secrets, 1),
                (SectionKind::Cpuid, 1),
                (SectionKind::KernelHashes, 1),
                (SectionKind::SvsmCaa, 1),
            ]
        );
    }

    #[test]
    fn image_of_an_impossible_length_is_read() {
        for length in [0, 1, PAGE + 1, MAX_FIRMWARE + PAGE] {
            let error = Firmware::parse(&vec![0; length]).unwrap_err();
            assert!(matches!(error, MeasureError::FirmwareLength { .. }));
        }
    }

    #[test]
    fn image_without_the_table_is_read() {
        let error = Firmware::parse(&[0; PAGE]).unwrap_err().to_string();
        assert!(error.contains("not OVMF"), "{error}");
    }

    #[test]
    fn section_that_cannot_be_launched_is_read() {
        for (section, why) in [
            ((0x80_0000, 0x1001, 1), "whole pages"),
            ((0x80_0010, 0x1000, 1), "whole pages"),
            ((0x80_0000, 0, 1), "whole pages"),
            ((0x80_0000, 0x2000, 2), "where there is one"),
            ((0x80_0000, 0x2000, 0x10), "where there is one"),
            ((0x80_0000, 0x1000, 5), "unknown kind 5"),
            ((0, 0xffff_f000, 1), "pages, at most"),
        ] {
            let image = Image {
                sections: vec![section],
                ..Image::default()
            };
            refused(&image, why);
        }
        refused(
            &Image {
                metadata_version: 2,
                ..Image::default()
            },
            "version 1",
        );
        refused(
            &Image {
                sections: vec![(0x1000, 0x1000, 1); 65],
                ..Image::default()
            },
            "65 sections",
        );
    }

    #[test]
    fn table_of_hashes_outside_its_page_is_used() {
        for table in [(0x81_0f60, 0x400), (0x82_0c00, 0x400), (0x81_0c00, 8)] {
            let image = Image {
                hashes_table: Some(table),
                ..Image::default()
            };
            let bytes = image.bytes();
            assert!(Firmware::parse(&bytes).unwrap().hashes_table().is_err());
        }
        let image = Image {
            hashes_table: Some((0, 0)),
            ..Image::default()
        };
        let bytes = image.bytes();
        let error = Firmware::parse(&bytes).unwrap().hashes_table().unwrap_err();
        assert_eq!(error, MeasureError::NoKernelHashes);
    }

    #[test]
    fn any_changed_byte_of_the_tables_panics() {
        let bytes = Image::default().bytes();
        let table = bytes.len() - 256..bytes.len();
        for at in (METADATA..METADATA + 80).chain(table) {
            for value in [0, 0x7f, 0xff, bytes[at].wrapping_add(1)] {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(firmware) = Firmware::parse(&changed) {
                    firmware.hashes_table().ok();
                }
            }
        }
    }
}
