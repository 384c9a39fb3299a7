//! `attestation_agent.AttestationAgentService`. Fields are numbered as its interface numbers them.

use super::protobuf::{Fields, Message};
use super::{Code, Refusal, unknown};
use crate::attestation::{Agent, Measured};

pub(super) const SERVICE: &str = "attestation_agent.AttestationAgentService";

pub(super) async fn answer(
    agent: &Agent,
    method: &str,
    request: &Fields<'_>,
) -> Result<Message, Refusal> {
    let answer = Message::default();
    match method {
        "GetEvidence" => {
            let evidence = agent.evidence(request.bytes(1)?.to_vec()).await?;
            Ok(answer.text(1, evidence.get()))
        }
        "GetAdditionalEvidence" => {
            let evidence = agent.additional_evidence(request.bytes(1)?.to_vec());
            Ok(answer.text(1, &evidence.await?))
        }
        "GetToken" => match request.text(1)? {
            "kbs" => Ok(answer.bytes(1, &agent.token_json().await?)),
            "coco_as" => Err(Refusal::new(
                Code::Unimplemented,
                "coco_as: tokens straight from an attestation service ([token_configs.coco_as]) are not made here, for \
                 upstream's carry no nonce and no init-data; ask for the type kbs",
            )),
            _ => Err(Refusal::new(
                Code::InvalidArgument,
                "name the token's type: kbs",
            )),
        },
        "ExtendRuntimeMeasurement" => {
            let (domain, operation) = (request.text(1)?, request.text(2)?);
            let measured = agent
                .measure(domain, operation, request.text(3)?, request.number(4)?)
                .await?;
            Ok(answer.number(
                1,
                match measured {
                    Measured::Done => 0,
                    Measured::NotSupported => 1,
                    Measured::NotEnabled => 2,
                },
            ))
        }
        "BindInitData" => bind(agent.initdata_digest(), request.bytes(1)?).map(|()| answer),
        "GetTeeType" => Ok(answer.text(1, agent.tee().as_str())),
        "GetAdditionalTees" => Ok(agent
            .additional_tees()
            .into_iter()
            .fold(answer, |answer, tee| answer.text(1, tee.as_str()))),
        _ => Err(unknown()),
    }
}

/// The hardware was asked when the guest started; what is left to say is whether it was this document.
fn bind(launched: Option<&[u8]>, digest: &[u8]) -> Result<(), Refusal> {
    let refused = |text: &str| Err(Refusal::new(Code::FailedPrecondition, text));
    match launched {
        Some(launched) if launched == digest => Ok(()),
        Some(_) => {
            refused("the digest is not that of the init-data that this guest was launched with")
        }
        None => refused(
            "this guest found no init-data when it started, and binds none later: hand it over with --initdata, or on the \
             disk or file where Kata and peer pods put it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_another_document_is_bound() {
        assert!(bind(Some(b"one"), b"one").is_ok());
        for launched in [Some(b"one".as_slice()), None] {
            let refusal = bind(launched, b"two").expect_err("another digest");
            assert_eq!(refusal.code, Code::FailedPrecondition);
        }
    }
}
