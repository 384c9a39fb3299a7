//! Where each piece of collateral lies in a collateral folder, and what lies at a place.
//!
//! A path is relative, has `/` between its parts, and holds nothing but ASCII letters, digits and `_ . - %`; no part of
//! it is `.` or `..`, whatever the evidence says.

use super::{RootId, SnpProduct, VcekTcb, Wanted};

impl Wanted {
    /// Its place in a collateral folder.
    pub fn path(&self) -> String {
        match self {
            Self::AmdVcek {
                product,
                chip_id,
                tcb,
            } => format!(
                "amd/{}/vcek_{}_{tcb}.der",
                folder(*product),
                hex::encode(chip_id)
            ),
            Self::AmdCrl { product } => format!("amd/{}/crl.der", folder(*product)),
            Self::IntelTcbInfo { tdx, fmspc, root } => {
                format!("{}/tcb_{}.json", tee(*root, *tdx), hex::encode(fmspc))
            }
            Self::IntelQeIdentity { tdx, root } => {
                format!("{}/qe_identity.json", tee(*root, *tdx))
            }
            Self::IntelPckCrl { platform, root } => {
                let ca = if *platform { "platform" } else { "processor" };
                format!("intel/{}/pck_{ca}.crl", short(*root))
            }
            Self::IntelRootCrl { root } => format!("intel/{}/root.crl", short(*root)),
            Self::NvidiaRim { id } => format!("nvidia/rim/{}.xml", escaped(id)),
        }
    }

    /// The place of its issuer chain (PEM), when its service sends one beside it.
    pub fn chain_path(&self) -> Option<String> {
        matches!(
            self,
            Self::IntelTcbInfo { .. } | Self::IntelQeIdentity { .. } | Self::IntelPckCrl { .. }
        )
        .then(|| format!("{}.chain.pem", self.path()))
    }

    /// What lies at a place, if [`Self::path`] names that place for anything. A path holds a part of the fingerprint of
    /// an Intel root, so the roots that it may mean must be given.
    pub fn from_path(path: &str, roots: &[RootId]) -> Option<Self> {
        let (first, rest) = path.split_once('/')?;
        let wanted = match first {
            "amd" => amd(rest),
            "intel" => intel(rest, roots),
            "nvidia" => Some(Self::NvidiaRim {
                id: rest
                    .strip_prefix("rim/")?
                    .strip_suffix(".xml")
                    .filter(|id| !id.contains('%'))?
                    .to_owned(),
            }),
            _ => None,
        }?;
        // There is one spelling of each.
        (wanted.path() == path).then_some(wanted)
    }

    /// Whether this can exist: evidence may name a chip or a RIM in a form that no service has.
    pub fn is_plausible(&self) -> bool {
        match self {
            Self::AmdVcek {
                product,
                chip_id,
                tcb,
            } => match product {
                SnpProduct::Turin => chip_id.len() == 8 && tcb.fmc.is_some(),
                _ => chip_id.len() == 64 && tcb.fmc.is_none(),
            },
            Self::NvidiaRim { id } => {
                (1..=MAX_RIM_ID).contains(&id.len())
                    && !id.starts_with('.')
                    && id.bytes().all(plain)
            }
            _ => true,
        }
    }
}

/// As in the name of a file: decimal, two digits at least.
impl std::fmt::Display for VcekTcb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "bl{:02}_tee{:02}_snp{:02}_ucode{:02}",
            self.bootloader, self.tee, self.snp, self.microcode
        )?;
        match self.fmc {
            Some(fmc) => write!(f, "_fmc{fmc:02}"),
            None => Ok(()),
        }
    }
}

fn folder(product: SnpProduct) -> &'static str {
    match product {
        SnpProduct::Milan => "milan",
        SnpProduct::Genoa => "genoa",
        SnpProduct::Turin => "turin",
    }
}

fn short(root: RootId) -> String {
    hex::encode(root.0.first_chunk::<8>().expect("32 bytes have 8"))
}

fn tee(root: RootId, tdx: bool) -> String {
    format!("intel/{}/{}", short(root), if tdx { "tdx" } else { "sgx" })
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// Each other byte as `%` and two digits, so that no two ids share a place and none leaves its folder.
fn escaped(id: &str) -> String {
    id.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02x}"),
        })
        .collect()
}

fn amd(rest: &str) -> Option<Wanted> {
    let (name, file) = rest.split_once('/')?;
    let product = SnpProduct::ALL.into_iter().find(|p| folder(*p) == name)?;
    if file == "crl.der" {
        return Some(Wanted::AmdCrl { product });
    }
    let mut parts = file.strip_prefix("vcek_")?.strip_suffix(".der")?.split('_');
    let chip_id = parts.next().filter(|id| id.len() <= 128)?;
    let mut number = |name: &str| parts.next()?.strip_prefix(name)?.parse().ok();
    let tcb = VcekTcb {
        bootloader: number("bl")?,
        tee: number("tee")?,
        snp: number("snp")?,
        microcode: number("ucode")?,
        fmc: number("fmc"),
    };
    Some(Wanted::AmdVcek {
        product,
        chip_id: hex::decode(chip_id).ok()?,
        tcb,
    })
}

fn intel(rest: &str, roots: &[RootId]) -> Option<Wanted> {
    let (root, rest) = rest.split_once('/')?;
    let root = *roots.iter().find(|known| short(**known) == root)?;
    match rest {
        "root.crl" => return Some(Wanted::IntelRootCrl { root }),
        "pck_platform.crl" => {
            return Some(Wanted::IntelPckCrl {
                platform: true,
                root,
            });
        }
        "pck_processor.crl" => {
            return Some(Wanted::IntelPckCrl {
                platform: false,
                root,
            });
        }
        _ => {}
    }
    let (tee, file) = rest.split_once('/')?;
    let tdx = match tee {
        "tdx" => true,
        "sgx" => false,
        _ => return None,
    };
    if file == "qe_identity.json" {
        return Some(Wanted::IntelQeIdentity { tdx, root });
    }
    let digits = file.strip_prefix("tcb_")?.strip_suffix(".json")?;
    let mut fmspc = [0; 6];
    hex::decode_to_slice(digits, &mut fmspc).ok()?;
    Some(Wanted::IntelTcbInfo { tdx, fmspc, root })
}

/// NVIDIA's own have fewer than 64.
const MAX_RIM_ID: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OTHER: RootId = RootId([7; 32]);

    fn tcb(fmc: Option<u8>) -> VcekTcb {
        VcekTcb {
            fmc,
            bootloader: 3,
            tee: 0,
            snp: 8,
            microcode: 115,
        }
    }

    fn every() -> Vec<(Wanted, String)> {
        let root = RootId::INTEL;
        let chip = "ab".repeat(64);
        [
            (
                Wanted::AmdVcek {
                    product: SnpProduct::Milan,
                    chip_id: vec![0xab; 64],
                    tcb: tcb(None),
                },
                format!("amd/milan/vcek_{chip}_bl03_tee00_snp08_ucode115.der"),
            ),
            (
                Wanted::AmdVcek {
                    product: SnpProduct::Turin,
                    chip_id: vec![0xab; 8],
                    tcb: tcb(Some(1)),
                },
                "amd/turin/vcek_abababababababab_bl03_tee00_snp08_ucode115_fmc01.der".to_owned(),
            ),
            (
                Wanted::AmdCrl {
                    product: SnpProduct::Genoa,
                },
                "amd/genoa/crl.der".to_owned(),
            ),
            (
                Wanted::IntelTcbInfo {
                    tdx: true,
                    fmspc: [0, 0xa0, 0x6d, 8, 0, 0],
                    root,
                },
                "intel/44a0196b2b99f889/tdx/tcb_00a06d080000.json".to_owned(),
            ),
            (
                Wanted::IntelQeIdentity { tdx: false, root },
                "intel/44a0196b2b99f889/sgx/qe_identity.json".to_owned(),
            ),
            (
                Wanted::IntelPckCrl {
                    platform: true,
                    root: OTHER,
                },
                "intel/0707070707070707/pck_platform.crl".to_owned(),
            ),
            (
                Wanted::IntelPckCrl {
                    platform: false,
                    root,
                },
                "intel/44a0196b2b99f889/pck_processor.crl".to_owned(),
            ),
            (
                Wanted::IntelRootCrl { root },
                "intel/44a0196b2b99f889/root.crl".to_owned(),
            ),
            (
                Wanted::NvidiaRim {
                    id: "NV_GPU_DRIVER_GH100_535.86.09".to_owned(),
                },
                "nvidia/rim/NV_GPU_DRIVER_GH100_535.86.09.xml".to_owned(),
            ),
        ]
        .into()
    }

    #[test]
    fn place_is_not_the_one_that_others_read() {
        for (wanted, path) in every() {
            assert_eq!(wanted.path(), path);
        }
    }

    #[test]
    fn what_lies_at_a_place_is_forgotten() {
        for (wanted, path) in every() {
            assert_eq!(
                Wanted::from_path(&path, &[OTHER, RootId::INTEL]),
                Some(wanted)
            );
        }
    }

    #[test]
    fn chain_lies_beside_what_comes_with_one_only() {
        let chains: Vec<String> = every().iter().filter_map(|(w, _)| w.chain_path()).collect();
        assert_eq!(chains.len(), 4);
        assert_eq!(
            chains.first().map(String::as_str),
            Some("intel/44a0196b2b99f889/tdx/tcb_00a06d080000.json.chain.pem")
        );
    }

    #[test]
    fn another_spelling_of_a_place_is_taken_for_it() {
        for path in [
            "",
            "amd",
            "amd/",
            "amd/milan",
            "amd/Milan/crl.der",
            "amd/milan/../milan/crl.der",
            "amd/milan/vcek_AB_bl03_tee00_snp08_ucode115.der",
            "amd/milan/vcek_ab_bl3_tee00_snp08_ucode115.der",
            "amd/milan/vcek_ab_bl+3_tee00_snp08_ucode115.der",
            "amd/milan/vcek_ab_bl003_tee00_snp08_ucode115.der",
            "amd/milan/vcek_ab_bl03_tee00_snp08_ucode256.der",
            "amd/milan/vcek_ab_bl03_tee00_snp08_ucode115_fmc01_x.der",
            "amd/milan/vcek_ab_bl03_tee00_snp08_ucode115_fmcx.der",
            "intel/0000000000000000/root.crl",
            "intel/44A0196B2B99F889/root.crl",
            "intel/44a0196b2b99f889/tdx/tcb_00A06D080000.json",
            "intel/44a0196b2b99f889/tdx/tcb_00a06d08000.json",
            "nvidia/rim/a/b.xml",
            "nvidia/rim/../a.xml",
            "nvidia/rim/%2e.xml",
            "/amd/milan/crl.der",
        ] {
            assert_eq!(Wanted::from_path(path, &[RootId::INTEL]), None, "{path}");
        }
    }

    #[test]
    fn id_of_a_rim_leaves_its_folder() {
        for id in [
            "",
            ".",
            "..",
            "../../x",
            "/etc/passwd",
            "a\0b",
            "a\\b",
            "ä",
            "a%2fb",
        ] {
            let wanted = Wanted::NvidiaRim { id: id.to_owned() };
            let path = wanted.path();
            assert_eq!(path.matches('/').count(), 2, "{path}");
            assert!(
                path.split('/').all(|part| part != ".." && part != "."),
                "{path}"
            );
            assert!(
                path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\'),
                "{path}"
            );
            assert!(!wanted.is_plausible(), "{id:?}");
        }
    }

    #[test]
    fn two_ids_share_a_place() {
        let path = |id: &str| Wanted::NvidiaRim { id: id.to_owned() }.path();
        assert_ne!(path("a/b"), path("a%2fb"));
    }

    #[test]
    fn chip_of_another_product_line_is_asked_for() {
        let vcek = |product, length, fmc| Wanted::AmdVcek {
            product,
            chip_id: vec![1; length],
            tcb: tcb(fmc),
        };
        assert!(vcek(SnpProduct::Genoa, 64, None).is_plausible());
        assert!(vcek(SnpProduct::Turin, 8, Some(0)).is_plausible());
        assert!(!vcek(SnpProduct::Turin, 64, Some(0)).is_plausible());
        assert!(!vcek(SnpProduct::Milan, 8, None).is_plausible());
        assert!(!vcek(SnpProduct::Milan, 64, Some(0)).is_plausible());
        assert!(!vcek(SnpProduct::Turin, 8, None).is_plausible());
    }
}
