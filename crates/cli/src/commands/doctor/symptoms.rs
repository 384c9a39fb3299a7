//! What people see when a confidential pod does not work, why, and what mends it.

/// One symptom.
#[derive(serde::Serialize)]
pub(super) struct Symptom {
    /// What is printed, or seen.
    pub(super) symptom: &'static str,
    /// Why.
    pub(super) cause: &'static str,
    /// What to do.
    pub(super) mend: &'static str,
    /// Words of a message by which it is recognised, small.
    #[serde(skip)]
    words: &'static [&'static str],
}

/// The symptoms that a message names.
pub(super) fn of(message: &str) -> Vec<&'static Symptom> {
    let message = message.to_lowercase();
    let names = |symptom: &&Symptom| symptom.words.iter().any(|words| message.contains(words));
    ALL.iter().filter(names).collect()
}

const fn symptom(
    symptom: &'static str,
    words: &'static [&'static str],
    cause: &'static str,
    mend: &'static str,
) -> Symptom {
    Symptom {
        symptom,
        cause,
        mend,
        words,
    }
}

pub(super) const ALL: [Symptom; 17] = [
    symptom(
        "the pod is not created, the guest gets 404",
        &["404"],
        "the operator was installed with an empty or incomplete INITDATA, before the broker was there",
        "strongroom initdata new initdata.toml --broker URL --broker-cert PEM, set INITDATA in peer-pods-cm, restart the daemon set",
    ),
    symptom(
        "Image Pull error: Failed to decode layer data stream / Failed to unpack layer",
        &["failed to unpack layer", "failed to decode layer"],
        "the guest's disk is too small for the unpacked image",
        "raise ROOT_VOLUME_SIZE in peer-pods-cm and restart the daemon set; or strongroom guest scratch",
    ),
    symptom(
        "The requested VM size ... is not available in the current region",
        &["vm size", "invalidparameter"],
        "the instance size is not offered there, or is no confidential one",
        "set AZURE_INSTANCE_SIZE to one that is (az vm list-skus --location REGION --size Standard_DC) and restart the daemon set",
    ),
    symptom(
        "Retrying failed agent proxy connection: dial tcp ...:15150: connection refused",
        &["15150", "agent proxy connection"],
        "the peer pod's virtual machine cannot be reached: gateway, credentials or public address",
        "log in again as the service principal, give the subnet a NAT gateway, look at the cloud-api-adaptor's log",
    ),
    symptom(
        "the pod is stuck and the broker's log is silent: INITDATA is wrong",
        &["stuck", "initdata", "init-data"],
        "url or certificate is empty, image_security_policy_uri is wrong, or the TOML is broken",
        "strongroom initdata check FILE; after a change register the new digest: strongroom initdata digest FILE",
    ),
    symptom(
        "Image policy rejected: Denied by policy: rejected by `sigstoreSigned` rule",
        &["image policy rejected", "sigstoresigned"],
        "the image is not signed, not with this key, or not under this name; or default: reject covers it",
        "strongroom image sign IMAGE --key KEY, or amend the policy: strongroom resource put default/security-policy/image policy.json",
    ),
    symptom(
        "the broker's log shows no request",
        &[
            "no request",
            "certificate",
            "connection refused",
            "dns error",
        ],
        "there is no way to the broker, or TLS refuses its certificate: no subject alternative name, or not the url's",
        "strongroom doctor --broker URL --broker-cert PEM; strongroom broker init NEWDIR --name HOST makes a certificate that names it",
    ),
    symptom(
        "PolicyDeny in the broker's log",
        &["policydeny", "denied by"],
        "a policy is wrong, reference values are stale (image or init-data changed), or the resource's policy says no",
        "strongroom audit explain EVENT, on the owner's side, says which requirement failed and what would mend it",
    ),
    symptom(
        "PCR mismatch, a measurement differs",
        &["pcr"],
        "the guest's image is not the one that the reference values are of (`latest` is not what is installed)",
        "strongroom reference-value diff EVENT; compute them again from the image: strongroom reference-value measure",
    ),
    symptom(
        "the application reads sealed.eyJ... instead of its secret",
        &["sealed."],
        "attestation failed, and upstream's agent left the pointer in its place",
        "strongroom doctor in the guest; strongroom guest exec -- APP, which does not start the application then",
    ),
    symptom(
        "ExecProcessRequest is blocked by policy",
        &["execprocessrequest", "cannot enter container"],
        "the policy of the init-data does not allow this command",
        "strongroom initdata policy test FILE --request exec --command COMMAND; strongroom initdata new ... --allow-exec COMMAND",
    ),
    symptom(
        "there are no logs, kubectl logs is empty",
        &["no logs", "readstreamrequest"],
        "ReadStreamRequest is false in the policy of the init-data",
        "strongroom initdata new ... --allow-logs",
    ),
    symptom(
        "[CDH] [ERROR]: Get Resource failed",
        &["get resource failed"],
        "the resource's policy says no, there is no such resource, or the guest could not attest",
        "strongroom doctor kbs:///repository/type/tag, in the guest; strongroom audit explain EVENT on the owner's side",
    ),
    symptom(
        "the third confidential pod stays in ContainerCreating",
        &["containercreating", "quota"],
        "the subscription's quota of processors of this kind is used up",
        "a smaller AZURE_INSTANCE_SIZE, or delete another pod; az vm list-usage --location REGION",
    ),
    symptom(
        "a deleted pod stays in Terminating",
        &["terminating"],
        "its virtual machine was not deleted",
        "az vm list, az vm delete; then kubectl delete pod POD --force",
    ),
    symptom(
        "unauthorized: access to the requested resource is not authorized, ErrImagePull",
        &["unauthorized", "errimagepull"],
        "the registry's credentials are not with the guest",
        "strongroom resource put default/NAME/dockerconfigjson FILE, and authenticated_registry_credentials_uri in cdh.toml [image]",
    ),
    symptom(
        "certificate not valid yet, token expired although it is new",
        &["expired", "not yet valid", "clock"],
        "the clocks of guest and broker differ",
        "set the guest's clock: chronyc makestep, or timedatectl set-ntp true",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_that_people_search_for_has_no_cause() {
        for (message, cause) in [
            (
                "rpc status: Status { code: INTERNAL, message: \"[CDH] [ERROR]: Get Resource failed\"",
                "resource's policy",
            ),
            (
                "cannot enter container 2b: PermissionDenied desc = \"ExecProcessRequest is blocked by policy: \"",
                "does not allow this command",
            ),
            (
                "error: Image policy rejected: Denied by policy: rejected by `sigstoreSigned` rule",
                "not signed",
            ),
            (
                "dial tcp 10.0.0.4:15150: connect: connection refused",
                "cannot be reached",
            ),
            ("sealed.eyJhbGciOiJ", "left the pointer"),
        ] {
            let causes: Vec<_> = of(message).iter().map(|found| found.cause).collect();
            assert!(
                causes.iter().any(|found| found.contains(cause)),
                "{message}: {causes:?}"
            );
        }
        assert!(of("all is well").is_empty());
        for symptom in &ALL {
            assert!(
                of(symptom.symptom)
                    .iter()
                    .any(|found| found.symptom == symptom.symptom),
                "{}",
                symptom.symptom
            );
        }
    }
}
