//! `TPM_RC` (Part 2, 6.6): what a TPM says when it refuses, and what there is to do.

use std::fmt;

/// A response code other than success.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseCode(u32);

impl ResponseCode {
    pub(crate) const fn new(code: u32) -> Self {
        Self(code)
    }

    /// The number as it was answered.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The code without the number of the parameter, handle or session that it is about.
    pub fn base(self) -> u32 {
        let code = self.0 & 0xFFF;
        match code & FORMAT_ONE != 0 {
            true => code & 0x0BF,
            false => code,
        }
    }

    /// Its name in the specification.
    pub fn name(self) -> Option<&'static str> {
        let known = NAMES.iter().find(|(code, _)| *code == self.base());
        known.map(|(_, name)| *name)
    }

    /// What to do about it, where there is something.
    pub fn advice(self) -> Option<&'static str> {
        Some(match self.base() {
            Self::AUTH_FAIL | Self::BAD_AUTH => {
                "the key or hierarchy has a password that this program does not know: was the owner's set \
                 (tpm2_changeauth)? Clear it, or make the storage root key at handle 0x81000001 with an empty password"
            }
            Self::LOCKOUT => {
                "too many wrong passwords were tried: wait for the lockout to end, or end it (tpm2_dictionarylockout \
                 --clear-lockout)"
            }
            Self::POLICY_FAIL | Self::PCR_CHANGED => {
                "a PCR has another value than the policy asks for: see what was measured differently \
                 (tpm2_eventlog /sys/kernel/security/tpm0/binary_bios_measurements)"
            }
            Self::HANDLE | Self::REFERENCE_H0 => {
                "there is no key or index under this handle: see `tpm2_getcap handles-persistent` and `tpm2_getcap \
                 handles-nv-index`"
            }
            Self::INTEGRITY => {
                "what was sealed was changed, or belongs to another TPM or to this one before it was cleared"
            }
            Self::INITIALIZE => {
                "the TPM was not started: the firmware does that, and `swtpm` with --flags startup-clear"
            }
            Self::FAILURE => "the TPM is in failure mode: restart the machine",
            Self::OBJECT_MEMORY | Self::SESSION_MEMORY | Self::SESSION_HANDLES => {
                "the TPM has no room for one more key or session: use /dev/tpmrm0 instead of /dev/tpm0, or free some \
                 (tpm2_flushcontext -t -l -s)"
            }
            Self::COMMAND_CODE => "this TPM does not have the command",
            Self::NV_UNINITIALIZED => "the index was defined and never written",
            Self::HIERARCHY => "the hierarchy is disabled: the firmware's setup does that",
            Self::TPM_1_2 => "it is a TPM 1.2; a TPM 2.0 is needed",
            _ => return None,
        })
    }

    /// Whether the same command may succeed a moment later.
    pub(crate) fn is_transient(self) -> bool {
        matches!(self.base(), RETRY | YIELDED | TESTING)
    }

    /// Whether a password is what is missing.
    pub fn is_authorization(self) -> bool {
        matches!(self.base(), Self::AUTH_FAIL | Self::BAD_AUTH)
    }

    /// Whether nothing is there under the handle that was named.
    pub fn is_missing(self) -> bool {
        matches!(self.base(), Self::HANDLE | Self::REFERENCE_H0)
    }

    pub(crate) const TPM_1_2: u32 = 0x01E;
    /// Started already.
    pub(crate) const INITIALIZE: u32 = 0x100;
    const FAILURE: u32 = 0x101;
    const PCR_CHANGED: u32 = 0x128;
    const COMMAND_CODE: u32 = 0x143;
    const NV_UNINITIALIZED: u32 = 0x14A;
    const AUTH_FAIL: u32 = 0x08E;
    const HANDLE: u32 = 0x08B;
    const BAD_AUTH: u32 = 0x0A2;
    const HIERARCHY: u32 = 0x085;
    pub(crate) const POLICY_FAIL: u32 = 0x09D;
    pub(crate) const INTEGRITY: u32 = 0x09F;
    const OBJECT_MEMORY: u32 = 0x902;
    const SESSION_MEMORY: u32 = 0x903;
    const SESSION_HANDLES: u32 = 0x905;
    const REFERENCE_H0: u32 = 0x910;
    const LOCKOUT: u32 = 0x921;
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({:#05x})", self.0)?,
            None => write!(f, "response code {:#05x}", self.0)?,
        }
        if self.0 & FORMAT_ONE != 0 {
            let number = self.0 >> 8 & 0xF;
            match (self.0 & OF_PARAMETER != 0, number) {
                (true, number) => write!(f, ", parameter {number}")?,
                (false, 0) => {}
                (false, number @ 1..8) => write!(f, ", handle {number}")?,
                (false, number) => write!(f, ", session {}", number - 8)?,
            }
        }
        match self.advice() {
            Some(advice) => write!(f, ": {advice}"),
            None => Ok(()),
        }
    }
}

const FORMAT_ONE: u32 = 0x080;
const OF_PARAMETER: u32 = 0x040;
const RETRY: u32 = 0x922;
const YIELDED: u32 = 0x908;
const TESTING: u32 = 0x90A;

const NAMES: &[(u32, &str)] = &[
    (0x01E, "TPM_RC_BAD_TAG"),
    (0x100, "TPM_RC_INITIALIZE"),
    (0x101, "TPM_RC_FAILURE"),
    (0x103, "TPM_RC_SEQUENCE"),
    (0x120, "TPM_RC_DISABLED"),
    (0x121, "TPM_RC_EXCLUSIVE"),
    (0x124, "TPM_RC_AUTH_TYPE"),
    (0x125, "TPM_RC_AUTH_MISSING"),
    (0x126, "TPM_RC_POLICY"),
    (0x127, "TPM_RC_PCR"),
    (0x128, "TPM_RC_PCR_CHANGED"),
    (0x12D, "TPM_RC_UPGRADE"),
    (0x12E, "TPM_RC_TOO_MANY_CONTEXTS"),
    (0x12F, "TPM_RC_AUTH_UNAVAILABLE"),
    (0x130, "TPM_RC_REBOOT"),
    (0x131, "TPM_RC_UNBALANCED"),
    (0x142, "TPM_RC_COMMAND_SIZE"),
    (0x143, "TPM_RC_COMMAND_CODE"),
    (0x144, "TPM_RC_AUTHSIZE"),
    (0x145, "TPM_RC_AUTH_CONTEXT"),
    (0x146, "TPM_RC_NV_RANGE"),
    (0x147, "TPM_RC_NV_SIZE"),
    (0x148, "TPM_RC_NV_LOCKED"),
    (0x149, "TPM_RC_NV_AUTHORIZATION"),
    (0x14A, "TPM_RC_NV_UNINITIALIZED"),
    (0x14B, "TPM_RC_NV_SPACE"),
    (0x14C, "TPM_RC_NV_DEFINED"),
    (0x150, "TPM_RC_BAD_CONTEXT"),
    (0x153, "TPM_RC_NEEDS_TEST"),
    (0x154, "TPM_RC_NO_RESULT"),
    (0x155, "TPM_RC_SENSITIVE"),
    (0x081, "TPM_RC_ASYMMETRIC"),
    (0x082, "TPM_RC_ATTRIBUTES"),
    (0x083, "TPM_RC_HASH"),
    (0x084, "TPM_RC_VALUE"),
    (0x085, "TPM_RC_HIERARCHY"),
    (0x087, "TPM_RC_KEY_SIZE"),
    (0x088, "TPM_RC_MGF"),
    (0x089, "TPM_RC_MODE"),
    (0x08A, "TPM_RC_TYPE"),
    (0x08B, "TPM_RC_HANDLE"),
    (0x08C, "TPM_RC_KDF"),
    (0x08D, "TPM_RC_RANGE"),
    (0x08E, "TPM_RC_AUTH_FAIL"),
    (0x08F, "TPM_RC_NONCE"),
    (0x090, "TPM_RC_PP"),
    (0x092, "TPM_RC_SCHEME"),
    (0x095, "TPM_RC_SIZE"),
    (0x096, "TPM_RC_SYMMETRIC"),
    (0x097, "TPM_RC_TAG"),
    (0x098, "TPM_RC_SELECTOR"),
    (0x09A, "TPM_RC_INSUFFICIENT"),
    (0x09B, "TPM_RC_SIGNATURE"),
    (0x09C, "TPM_RC_KEY"),
    (0x09D, "TPM_RC_POLICY_FAIL"),
    (0x09F, "TPM_RC_INTEGRITY"),
    (0x0A0, "TPM_RC_TICKET"),
    (0x0A1, "TPM_RC_RESERVED_BITS"),
    (0x0A2, "TPM_RC_BAD_AUTH"),
    (0x0A3, "TPM_RC_EXPIRED"),
    (0x0A4, "TPM_RC_POLICY_CC"),
    (0x0A5, "TPM_RC_BINDING"),
    (0x0A6, "TPM_RC_CURVE"),
    (0x0A7, "TPM_RC_ECC_POINT"),
    (0x901, "TPM_RC_CONTEXT_GAP"),
    (0x902, "TPM_RC_OBJECT_MEMORY"),
    (0x903, "TPM_RC_SESSION_MEMORY"),
    (0x904, "TPM_RC_MEMORY"),
    (0x905, "TPM_RC_SESSION_HANDLES"),
    (0x906, "TPM_RC_OBJECT_HANDLES"),
    (0x907, "TPM_RC_LOCALITY"),
    (0x908, "TPM_RC_YIELDED"),
    (0x909, "TPM_RC_CANCELED"),
    (0x90A, "TPM_RC_TESTING"),
    (0x910, "TPM_RC_REFERENCE_H0"),
    (0x911, "TPM_RC_REFERENCE_H1"),
    (0x920, "TPM_RC_NV_RATE"),
    (0x921, "TPM_RC_LOCKOUT"),
    (0x922, "TPM_RC_RETRY"),
    (0x923, "TPM_RC_NV_UNAVAILABLE"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn code_is_named_whatever_it_is_about() {
        for (number, name, about) in [
            (0x098E, "TPM_RC_AUTH_FAIL", ", session 1"),
            (0x09A2, "TPM_RC_BAD_AUTH", ", session 1"),
            (0x018B, "TPM_RC_HANDLE", ", handle 1"),
            (0x01DF, "TPM_RC_INTEGRITY", ", parameter 1"),
            (0x0921, "TPM_RC_LOCKOUT", ""),
            (0x099D, "TPM_RC_POLICY_FAIL", ", session 1"),
        ] {
            let code = ResponseCode::new(number);
            assert_eq!(code.name(), Some(name), "{number:#x}");
            let text = code.to_string();
            assert!(
                text.starts_with(&format!("{name} ({number:#05x}){about}: ")),
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_code_keeps_its_number() {
        assert_eq!(
            ResponseCode::new(0x7FF).to_string(),
            "response code 0x7ff, parameter 7"
        );
        assert_eq!(ResponseCode::new(0x17F).to_string(), "response code 0x17f");
    }
}
