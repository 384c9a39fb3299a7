//! Reference integrity manifests: SWID tags (ISO/IEC 19770-2:2015) in the TCG's RIM form, as NVIDIA signs them.
//!
//! What a manifest says is in [`Rim::parse`], who signed it in [`Rim::check_signature`] (XML Signature 1.1 in the one
//! form that NVIDIA uses: enveloped, Canonical XML, ECDSA P-384 with SHA-384, the chain in the key information).
//! A [`Rim`] whose signature nobody checked is worth what its bringer is worth.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Assurance;
use crate::anchors::{TrustAnchors, Vendor};
use crate::x509::{Certificate, KeyKind, X509Error};
use crate::xml::{Element, XmlError, malformed};

/// A manifest that was parsed, and whose signature nobody checked.
#[derive(Clone, Debug)]
pub(crate) struct Rim {
    root: Element,
    /// The maker, with spaces as underscores: `NVIDIA_Corporation`.
    pub(crate) manufacturer: String,
    /// What kind of thing it is for: `GPU`.
    pub(crate) edition: String,
    /// The version of the driver or VBIOS that it describes.
    pub(crate) version: String,
    /// By the index that the manifest counts with, from 0.
    pub(crate) measurements: BTreeMap<u32, Golden>,
}

/// What one measurement may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Golden {
    /// Whether it is to be compared at all.
    pub(crate) active: bool,
    /// The accepted values.
    pub(crate) values: Vec<Vec<u8>>,
}

impl Rim {
    /// Reads a SWID tag with `Meta` and `Payload`.
    pub(crate) fn parse(xml: &[u8]) -> Result<Self, RimError> {
        let root = Element::parse(xml)?;
        if !root.is(SWID, "SoftwareIdentity") {
            return Err(malformed("the root is no SoftwareIdentity").into());
        }
        let meta = root.only(SWID, "Meta")?;
        let text = |namespace: &str, name: &str| {
            meta.attribute(namespace, name)
                .filter(|value| !value.is_empty() && value.len() <= MAX_TEXT)
                .map(str::to_owned)
                .ok_or_else(|| malformed(format!("Meta has no {name} of 1 to {MAX_TEXT} bytes")))
        };
        let manufacturer = text(RIMIM, "PlatformManufacturerStr")?.replace(' ', "_");
        let edition = text("", "edition")?;
        let version = text("", "colloquialVersion")?;
        let mut measurements = BTreeMap::new();
        for resource in root
            .only(SWID, "Payload")?
            .elements()
            .filter(|element| element.is(SWID, "Resource"))
            .filter(|element| element.attribute("", "type") == Some("Measurement"))
        {
            let (index, golden) = golden(resource)?;
            if measurements.insert(index, golden).is_some() {
                return Err(malformed(format!("measurement {index} occurs twice")).into());
            }
        }
        if measurements.is_empty() || measurements.len() > MAX_MEASUREMENTS {
            return Err(malformed(format!(
                "{} measurements, wanted 1 to {MAX_MEASUREMENTS}",
                measurements.len()
            ))
            .into());
        }
        Ok(Self {
            root,
            manufacturer,
            edition,
            version,
            measurements,
        })
    }

    /// XML Signature 1.1, 3.2: the reference's digest is that of the document without its signature, the signature
    /// is the first certificate's over the signed information, and the certificates lead to a trusted root.
    pub(crate) fn check_signature(
        &self,
        anchors: &TrustAnchors,
        now: u64,
    ) -> Result<Assurance, RimError> {
        let signature = self.root.only(DSIG, "Signature")?;
        let info = signature.only(DSIG, "SignedInfo")?;
        algorithm(info.only(DSIG, "CanonicalizationMethod")?, &CANONICAL)?;
        algorithm(info.only(DSIG, "SignatureMethod")?, &[ECDSA_SHA384])?;
        let reference = info.only(DSIG, "Reference")?;
        if reference.attribute("", "URI") != Some("") {
            return Err(RimError::Form(
                "the signature is not over the whole document",
            ));
        }
        let transforms: Vec<&Element> = reference.only(DSIG, "Transforms")?.elements().collect();
        let [enveloped, canonical] = transforms.as_slice() else {
            return Err(RimError::Form("the reference has not two transforms"));
        };
        algorithm(enveloped, &[ENVELOPED])?;
        algorithm(canonical, &CANONICAL)?;
        algorithm(reference.only(DSIG, "DigestMethod")?, &SHA384)?;
        let digest = digest::digest(
            &digest::SHA384,
            &self.root.without(DSIG, "Signature").canonical(),
        );
        if decode(reference.only(DSIG, "DigestValue")?)? != digest.as_ref() {
            return Err(RimError::Digest);
        }
        let chain: Vec<Certificate> = signature
            .only(DSIG, "KeyInfo")?
            .only(DSIG, "X509Data")?
            .elements()
            .take(MAX_CHAIN)
            .map(|certificate| Ok(Certificate::from_der(&decode(certificate)?)?))
            .collect::<Result<_, RimError>>()?;
        let value = decode(signature.only(DSIG, "SignatureValue")?)?;
        let signed = info.canonical();
        let assurance = anchors.check_chain(Vendor::NvidiaRim, &chain, now)?;
        let leaf = chain.first().ok_or(X509Error::NotAnchored)?;
        if leaf.public_key().kind()? != KeyKind::P384 {
            return Err(RimError::Form("the signer's key is not on P-384"));
        }
        anchors.proven().once(&[leaf.der(), &signed, &value], || {
            leaf.public_key().check_fixed(&signed, &value)
        })?;
        Ok(assurance)
    }
}

/// Why a manifest does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum RimError {
    #[error(transparent)]
    Xml(#[from] XmlError),
    #[error("{0}")]
    Form(&'static str),
    #[error("its digest is not the one that was signed")]
    Digest,
    #[error("{0}")]
    Certificate(#[from] X509Error),
}

fn golden(resource: &Element) -> Result<(u32, Golden), RimError> {
    let number = |name: &str| {
        resource
            .attribute("", name)
            .and_then(|text| text.parse::<u32>().ok())
            .ok_or_else(|| malformed(format!("a measurement without the number {name}")))
    };
    let index = number("index")?;
    let size = number("size")?;
    let alternatives = number("alternatives")?;
    if alternatives == 0 || alternatives > MAX_ALTERNATIVES {
        return Err(malformed(format!(
            "measurement {index} has {alternatives} alternatives, wanted 1 to {MAX_ALTERNATIVES}"
        ))
        .into());
    }
    let active = match resource.attribute("", "active") {
        Some("True" | "true" | "1") => true,
        Some("False" | "false" | "0") => false,
        _ => {
            return Err(malformed(format!("measurement {index} is neither active nor not")).into());
        }
    };
    let values = (0..alternatives)
        .map(|n| {
            resource
                .attribute(HASH, &format!("Hash{n}"))
                .and_then(|text| hex::decode(text).ok())
                .filter(|value| u32::try_from(value.len()) == Ok(size))
                .ok_or_else(|| {
                    malformed(format!(
                        "measurement {index} has no Hash{n} of {size} bytes in hex"
                    ))
                })
        })
        .collect::<Result<_, _>>()?;
    Ok((index, Golden { active, values }))
}

fn algorithm(element: &Element, accepted: &[&str]) -> Result<(), RimError> {
    match element.attribute("", "Algorithm") {
        Some(named) if accepted.contains(&named) && element.elements().next().is_none() => Ok(()),
        _ => Err(RimError::Form(
            "the signature names an algorithm that is not accepted",
        )),
    }
}

/// XML Schema 1.1 part 2, 3.3.16: base64 with white space in it.
fn decode(element: &Element) -> Result<Vec<u8>, RimError> {
    let mut text = element.text()?;
    text.retain(|c| !c.is_ascii_whitespace());
    STANDARD
        .decode(text)
        .map_err(|e| malformed(format!("{} is not base64: {e}", element.name)).into())
}

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const RIMIM: &str = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/";
const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
/// The two versions differ in attributes of the `xml:` prefix alone, which no document here has.
const CANONICAL: [&str; 2] = [
    "http://www.w3.org/2006/12/xml-c14n11",
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
];
/// RFC 9231, 2.1.3; the second name is the one of XML Encryption.
const SHA384: [&str; 2] = ["http://www.w3.org/2001/04/xmldsig-more#sha384", HASH];
const MAX_TEXT: usize = 128;
const MAX_MEASUREMENTS: usize = 256;
const MAX_ALTERNATIVES: u32 = 64;
/// A longer chain is cut, and then leads nowhere.
const MAX_CHAIN: usize = 7;

/// Forged manifests for tests: NVIDIA's form under a root of the test's own.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod forge {
    use rcgen::{KeyPair, SigningKey as _};

    use super::*;

    /// Prints a manifest with these measurements: index, active, values.
    pub(crate) fn manifest(version: &str, measurements: &[(u32, bool, &[&[u8]])]) -> String {
        let resources: String = measurements
            .iter()
            .map(|(index, active, values)| {
                let hashes: String = values
                    .iter()
                    .enumerate()
                    .map(|(n, value)| format!(" h:Hash{n}=\"{}\"", hex::encode(value)))
                    .collect();
                format!(
                    "<Resource type=\"Measurement\" index=\"{index}\" active=\"{}\" alternatives=\"{}\" size=\"48\"{hashes}/>\n",
                    if *active { "True" } else { "False" },
                    values.len()
                )
            })
            .collect();
        format!(
            "<SoftwareIdentity xmlns=\"{SWID}\" xmlns:h=\"{HASH}\" name=\"GH100\">\n<Meta xmlns:r=\"{RIMIM}\" colloquialVersion=\"{version}\" edition=\"GPU\" r:PlatformManufacturerStr=\"NVIDIA Corporation\"/>\n<Payload>\n{resources}</Payload>\n</SoftwareIdentity>"
        )
    }

    /// Signs it as NVIDIA does.
    pub(crate) fn sign(manifest: &str, key: &KeyPair, chain: &[&[u8]]) -> String {
        let root = Element::parse(manifest.as_bytes()).unwrap();
        let digest = STANDARD.encode(digest::digest(&digest::SHA384, &root.canonical()));
        let certificates: String = chain
            .iter()
            .map(|der| {
                format!(
                    "<ds:X509Certificate>{}</ds:X509Certificate>",
                    STANDARD.encode(der)
                )
            })
            .collect();
        let signed = |value: &str| {
            let signature = format!(
                "<ds:Signature xmlns:ds=\"{DSIG}\"><ds:SignedInfo><ds:CanonicalizationMethod Algorithm=\"{}\"/><ds:SignatureMethod Algorithm=\"{ECDSA_SHA384}\"/><ds:Reference URI=\"\"><ds:Transforms><ds:Transform Algorithm=\"{ENVELOPED}\"/><ds:Transform Algorithm=\"{}\"/></ds:Transforms><ds:DigestMethod Algorithm=\"{}\"/><ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo><ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>",
                CANONICAL[0], CANONICAL[0], SHA384[0]
            );
            manifest.replace("</SoftwareIdentity>", &signature)
        };
        let draft = Element::parse(signed("").as_bytes()).unwrap();
        let info = draft
            .only(DSIG, "Signature")
            .unwrap()
            .only(DSIG, "SignedInfo")
            .unwrap();
        signed(&STANDARD.encode(fixed(&key.sign(&info.canonical()).unwrap())))
    }

    /// An ECDSA signature as r and s of 48 bytes each, from DER.
    pub(crate) fn fixed(signature: &[u8]) -> Vec<u8> {
        use der::Decode as _;
        use der::asn1::UintRef;
        #[derive(der::Sequence)]
        struct Ecdsa<'a> {
            r: UintRef<'a>,
            s: UintRef<'a>,
        }
        let parsed = Ecdsa::from_der(signature).unwrap();
        let mut out = Vec::new();
        for number in [parsed.r.as_bytes(), parsed.s.as_bytes()] {
            out.resize(out.len() + 48 - number.len(), 0);
            out.extend_from_slice(number);
        }
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// 2025-01-01.
    const WHEN_VALID: u64 = 1_735_689_600;

    fn real() -> Option<Vec<u8>> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/trustee/rvps/src/extractors/swid/test-rim.b64"
        );
        let Ok(text) = std::fs::read_to_string(path) else {
            assert!(
                !std::path::Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: no NVIDIA manifest beside the checkout");
            return None;
        };
        Some(STANDARD.decode(text.trim()).unwrap())
    }

    #[test]
    fn real_manifest_is_read_and_its_signature_verifies() {
        let Some(xml) = real() else { return };
        let rim = Rim::parse(&xml).unwrap();
        assert_eq!(
            (
                rim.manufacturer.as_str(),
                rim.edition.as_str(),
                rim.version.as_str()
            ),
            ("NVIDIA_Corporation", "GPU", "96.00.74.00.1C")
        );
        assert_eq!(rim.measurements.len(), 64);
        let twelfth = &rim.measurements[&12];
        assert!(twelfth.active);
        assert_eq!(twelfth.values.len(), 4);
        assert_eq!(
            rim.check_signature(&TrustAnchors::vendors(), WHEN_VALID),
            Ok(Assurance::Hardware)
        );
    }

    #[test]
    fn real_manifest_is_refused_when_its_signer_has_expired_or_is_not_trusted() {
        let Some(xml) = real() else { return };
        let rim = Rim::parse(&xml).unwrap();
        assert!(matches!(
            rim.check_signature(&TrustAnchors::vendors(), 1_764_900_000),
            Err(RimError::Certificate(X509Error::Validity { .. }))
        ));
        assert_eq!(
            rim.check_signature(&TrustAnchors::none(), WHEN_VALID),
            Err(RimError::Certificate(X509Error::NotAnchored))
        );
    }

    #[test]
    fn real_manifest_with_one_character_changed_is_refused() {
        let Some(xml) = real() else { return };
        let anchors = TrustAnchors::vendors();
        Rim::parse(&xml)
            .unwrap()
            .check_signature(&anchors, WHEN_VALID)
            .unwrap();
        let mut tried = 0;
        for at in (0..xml.len()).step_by(7) {
            let mut changed = xml.clone();
            // White space in base64 and the spelling of markup are not signed; digits are.
            changed[at] = match changed[at] {
                b'0' => b'1',
                c if c.is_ascii_digit() => b'0',
                _ => continue,
            };
            tried += 1;
            // A digit in the chain's second half may be that of the root, which is dropped for the trusted one.
            let refused = match Rim::parse(&changed) {
                Err(_) => true,
                Ok(rim) => rim.check_signature(&anchors, WHEN_VALID).is_err(),
            };
            assert!(refused, "byte {at}");
        }
        assert!(tried > 500, "{tried}");
    }

    #[test]
    fn manifest_of_another_form_is_refused() {
        let golden: &[&[u8]] = &[&[7; 48]];
        let good = forge::manifest("1", &[(0, true, golden)]);
        Rim::parse(good.as_bytes()).unwrap();
        for (from, to) in [
            ("SoftwareIdentity", "HardwareIdentity"),
            ("Meta ", "Beta "),
            ("edition=\"GPU\"", "edition=\"\""),
            ("colloquialVersion", "version"),
            ("PlatformManufacturerStr", "Manufacturer"),
            ("type=\"Measurement\"", "type=\"File\""),
            ("index=\"0\"", "index=\"-1\""),
            ("index=\"0\"", "index=\"99999999999\""),
            ("alternatives=\"1\"", "alternatives=\"2\""),
            ("alternatives=\"1\"", "alternatives=\"0\""),
            ("alternatives=\"1\"", "alternatives=\"4000000000\""),
            ("active=\"True\"", "active=\"perhaps\""),
            ("size=\"48\"", "size=\"47\""),
            ("Hash0=\"07", "Hash0=\"zz"),
            ("Payload>", "Load>"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            assert!(Rim::parse(bad.as_bytes()).is_err(), "{from} -> {to}");
        }
        let twice = forge::manifest("1", &[(0, true, golden), (0, true, golden)]);
        assert!(Rim::parse(twice.as_bytes()).is_err());
    }
}
