//! NV memory: certificates of keys, and on Azure the hardware's report.

use crate::commands::{Code, Hierarchy, Tpm};
use crate::error::{InAnswerTo as _, TpmError};
use crate::marshal::{Reader, Writer};
use crate::public::ALG_SHA256;

/// `TPMS_NV_PUBLIC` (Part 2, 13.5): what is known of an index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NvPublic {
    /// `TPMA_NV`.
    pub attributes: u32,
    /// How many bytes it has.
    pub size: u16,
}

impl Tpm {
    /// Describes an index.
    ///
    /// # Errors
    /// [`TpmError::Refused`], whose code says whether it is missing.
    pub fn nv_public(&mut self, index: u32) -> Result<NvPublic, TpmError> {
        let command = Code::NV_READ_PUBLIC;
        let answer = self.run(command, &[index], Writer::new())?;
        let mut reader = Reader(&answer.parameters);
        let parsed = (|| {
            let mut public = Reader(reader.sized("nvPublic", MAX_PUBLIC)?);
            let named = public.u32("nvIndex")?;
            public.u16("nameAlg")?;
            let attributes = public.u32("attributes")?;
            public.sized("authPolicy", MAX_DIGEST)?;
            let size = public.u16("dataSize")?;
            public.end("nvPublic")?;
            Ok((named, NvPublic { attributes, size }))
        })();
        match parsed.in_answer_to(command.name)? {
            (named, public) if named == index => Ok(public),
            (named, _) => Err(TpmError::malformed(
                command.name,
                format!("it describes index {named:#010x} instead of {index:#010x}"),
            )),
        }
    }

    /// Reads all of an index that has no password.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when it is missing, was never written, or has a password.
    pub fn read_nv(&mut self, index: u32) -> Result<Vec<u8>, TpmError> {
        let public = self.nv_public(index)?;
        let by_index = public.attributes & AUTH_READ != 0;
        let by_owner = public.attributes & OWNER_READ != 0;
        match (by_owner, by_index) {
            (true, true) => match self.read_nv_as(Hierarchy::Owner.handle(), index, public.size) {
                // The owner may have a password where the index has none.
                Err(error) if error.code().is_some_and(|code| code.is_authorization()) => {
                    self.read_nv_as(index, index, public.size)
                }
                outcome => outcome,
            },
            (true, false) => self.read_nv_as(Hierarchy::Owner.handle(), index, public.size),
            (false, true) => self.read_nv_as(index, index, public.size),
            (false, false) => Err(TpmError::argument(
                Code::NV_READ.name,
                format!(
                    "index {index:#010x} is read under a policy or by the firmware only (attributes {:#010x})",
                    public.attributes
                ),
            )),
        }
    }

    fn read_nv_as(&mut self, auth: u32, index: u32, size: u16) -> Result<Vec<u8>, TpmError> {
        let command = Code::NV_READ;
        let step = self.nv_step()?;
        let mut data = Vec::new();
        let mut offset = 0;
        while offset < size {
            let length = step.min(size - offset);
            let parameters = Writer::new().u16(length).u16(offset);
            let answer = self.authorized(command, &[auth, index], parameters)?;
            let part = Reader(&answer.parameters)
                .sized("data", length)
                .in_answer_to(command.name)?;
            if part.len() != usize::from(length) {
                return Err(TpmError::malformed(
                    command.name,
                    format!("{} bytes instead of {length}", part.len()),
                ));
            }
            data.extend_from_slice(part);
            offset += length;
        }
        Ok(data)
    }

    /// Makes an index of this size that its owner, and whoever knows its empty password, may read and write.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when it is there already, or the owner has a password.
    pub fn define_nv(&mut self, index: u32, size: u16) -> Result<(), TpmError> {
        let public = Writer::new()
            .u32(index)
            .u16(ALG_SHA256)
            .u32(OWNER_READ | OWNER_WRITE | AUTH_READ | AUTH_WRITE | NO_DA)
            .sized(&[])
            .u16(size);
        let parameters = Writer::new().sized(&[]).sized(public.as_bytes());
        self.authorized(
            Code::NV_DEFINE_SPACE,
            &[Hierarchy::Owner.handle()],
            parameters,
        )
        .map(drop)
    }

    /// Writes an index from its beginning on.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when it is missing, shorter than `data`, or has a password.
    pub fn write_nv(&mut self, index: u32, data: &[u8]) -> Result<(), TpmError> {
        let public = self.nv_public(index)?;
        if data.len() > usize::from(public.size) {
            return Err(TpmError::argument(
                Code::NV_WRITE.name,
                format!(
                    "index {index:#010x} has {} bytes, and {} were to be written",
                    public.size,
                    data.len()
                ),
            ));
        }
        let auth = match public.attributes & OWNER_WRITE != 0 {
            true => Hierarchy::Owner.handle(),
            false => index,
        };
        let step = self.nv_step()?;
        let mut offset = 0_u16;
        for part in data.chunks(step.into()) {
            let parameters = Writer::new().sized(part).u16(offset);
            self.authorized(Code::NV_WRITE, &[auth, index], parameters)?;
            offset = offset.saturating_add(step);
        }
        Ok(())
    }

    /// How much of an index goes into one command.
    fn nv_step(&mut self) -> Result<u16, TpmError> {
        let limit = self.property(PT_NV_BUFFER_MAX)?.unwrap_or_default();
        Ok(u16::try_from(limit)
            .unwrap_or(MOST_STEP)
            .clamp(LEAST_STEP, MOST_STEP))
    }
}

/// `TPMA_NV` (Part 2, 13.4).
const OWNER_WRITE: u32 = 1 << 1;
const AUTH_WRITE: u32 = 1 << 2;
const OWNER_READ: u32 = 1 << 17;
const AUTH_READ: u32 = 1 << 18;
const NO_DA: u32 = 1 << 25;
const PT_NV_BUFFER_MAX: u32 = 0x12C;
const LEAST_STEP: u16 = 64;
const MOST_STEP: u16 = 2048;
const MAX_PUBLIC: u16 = 128;
const MAX_DIGEST: u16 = 64;
