//! The URL forms of AMD's key distribution service ("Versioned Chip Endorsement Key (VCEK) Certificate and KDS
//! Interface Specification", publication 57230, chapters 4.1 and 4.2).

use strongroom_verifier::{SnpProduct, VcekTcb};

use super::service::{Ask, Service};

/// The certificate of a chip's key at a TCB.
pub(super) fn vcek(base: &str, product: SnpProduct, chip_id: &[u8], tcb: &VcekTcb) -> Ask {
    let fmc = tcb
        .fmc
        .map_or_else(String::new, |fmc| format!("fmcSPL={fmc:02}&"));
    let path = format!(
        "{product}/{}?{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
        hex::encode(chip_id),
        tcb.bootloader,
        tcb.tee,
        tcb.snp,
        tcb.microcode
    );
    ask(base, &path, super::MAX_CERTIFICATE)
}

/// The revocation list of a product line.
pub(super) fn crl(base: &str, product: SnpProduct) -> Ask {
    ask(base, &format!("{product}/crl"), super::MAX_CRL)
}

fn ask(base: &str, path: &str, limit: usize) -> Ask {
    Ask {
        service: Service::AmdKds,
        url: format!("{}/vcek/v1/{path}", base.trim_end_matches('/')),
        limit,
        chain_headers: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_not_the_one_that_amd_documents() {
        let mut tcb = VcekTcb {
            fmc: None,
            bootloader: 3,
            tee: 0,
            snp: 8,
            microcode: 115,
        };
        let base = "https://kdsintf.amd.com/";
        assert_eq!(
            vcek(base, SnpProduct::Milan, &[0xab; 64], &tcb).url,
            format!(
                "https://kdsintf.amd.com/vcek/v1/Milan/{}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115",
                "ab".repeat(64)
            )
        );
        tcb.fmc = Some(1);
        assert_eq!(
            vcek(base, SnpProduct::Turin, &[0xab; 8], &tcb).url,
            "https://kdsintf.amd.com/vcek/v1/Turin/abababababababab?fmcSPL=01&blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
        );
        assert_eq!(
            crl("http://127.0.0.1:1", SnpProduct::Genoa).url,
            "http://127.0.0.1:1/vcek/v1/Genoa/crl"
        );
    }
}
