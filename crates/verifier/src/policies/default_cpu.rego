# Grades the evidence of a CPU platform: what the verifier proved goes in, an AR4SI trust vector comes out.
#
# Package, rule and reference-value names are those of the CoCo attestation service, so that a policy
# written for it works here. A grade that no rule raises stays at its contraindicated default.
package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 36

trust_claims := {
	"instance-identity": 0,
	"configuration": configuration,
	"executables": executables,
	"file-system": 0,
	"hardware": hardware,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

##### sample: development evidence #####

executables := 3 if accepted("launch_digest", input.sample.launch_digest)

hardware := 2 if {
	assurance_holds
	accepted("svn", input.sample.svn)
	accepted("major_version", input.sample.platform_version.major)
	at_least("minimum_minor_version", input.sample.platform_version.minor)
}

configuration := 2 if {
	input.sample.debug == false
	initdata_holds
}

##### snp #####

executables := 3 if accepted("snp_launch_measurement", input.snp.measurement)

hardware := 2 if {
	accepted("snp_bootloader", input.snp.reported_tcb_bootloader)
	accepted("snp_microcode", input.snp.reported_tcb_microcode)
	accepted("snp_snp_svn", input.snp.reported_tcb_snp)
	accepted("snp_tee_svn", input.snp.reported_tcb_tee)
	fmc_holds("snp_fmc", input.snp)
	assurance_holds
}

configuration := grade if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
	initdata_holds
	grade := snp_configuration
}

snp_configuration := 2 if {
	accepted("snp_smt_enabled", input.snp.platform_smt_enabled)
	accepted("snp_tsme_enabled", input.snp.platform_tsme_enabled)
	accepted("snp_guest_abi_major", input.snp.policy_abi_major)
	accepted("snp_guest_abi_minor", input.snp.policy_abi_minor)
	accepted("snp_single_socket", input.snp.policy_single_socket)
	accepted("snp_smt_allowed", input.snp.policy_smt_allowed)
} else := 3

##### tdx #####

executables := grade if {
	accepted("rtmr_1", input.tdx.quote.body.rtmr_1)
	accepted("rtmr_2", input.tdx.quote.body.rtmr_2)
	grade := tdx_executables
}

tdx_executables := 3 if {
	event_of("EV_EFI_BOOT_SERVICES_APPLICATION", kernel_event, "tdvfkernel")
	event_of("EV_EVENT_TAG", parameters_event, "tdvfkernelparams")
} else := 4

hardware := 2 if td_hardware_holds(input.tdx)

configuration := 2 if td_configuration_holds(input.tdx)

td_hardware_holds(claims) if {
	claims.quote.header.tee_type == "81000000"
	claims.quote.header.vendor_id == "939a7233f79c4ca9940a0db3957f0607"
	claims.collateral_expiration_status == "0"
	accepted("mr_td", claims.quote.body.mr_td)
	tcb_holds(claims)
	assurance_holds
}

td_configuration_holds(claims) if {
	claims.td_attributes.debug == false
	accepted("xfam", claims.quote.body.xfam)
	initdata_holds
}

##### az-snp-vtpm #####

executables := 3 if {
	accepted("measurement", input["az-snp-vtpm"].measurement)
	accepted("snp_pcr11", input["az-snp-vtpm"].tpm.pcr11)
}

hardware := 2 if {
	accepted("tcb_bootloader", input["az-snp-vtpm"].reported_tcb_bootloader)
	accepted("tcb_microcode", input["az-snp-vtpm"].reported_tcb_microcode)
	accepted("tcb_snp", input["az-snp-vtpm"].reported_tcb_snp)
	accepted("tcb_tee", input["az-snp-vtpm"].reported_tcb_tee)
	fmc_holds("tcb_fmc", input["az-snp-vtpm"])
	assurance_holds
}

# This platform's claims are strings.
configuration := 2 if {
	input["az-snp-vtpm"].policy_debug_allowed == "false"
	input["az-snp-vtpm"].policy_migrate_ma == "false"
	accepted("smt_enabled", input["az-snp-vtpm"].platform_smt_enabled)
	accepted("tsme_enabled", input["az-snp-vtpm"].platform_tsme_enabled)
	accepted("abi_major", input["az-snp-vtpm"].policy_abi_major)
	accepted("abi_minor", input["az-snp-vtpm"].policy_abi_minor)
	accepted("single_socket", input["az-snp-vtpm"].policy_single_socket)
	accepted("smt_allowed", input["az-snp-vtpm"].policy_smt_allowed)
	initdata_holds
}

##### az-tdx-vtpm #####

executables := 3 if accepted("tdx_pcr11", input["az-tdx-vtpm"].tpm.pcr11)

hardware := 2 if td_hardware_holds(input["az-tdx-vtpm"])

configuration := 2 if td_configuration_holds(input["az-tdx-vtpm"])

##### tpm #####

executables := 3 if {
	accepted("tpm_pcr11", input.tpm.pcr11)
	accepted("trusted_aks", input.tpm.ak_public)
}

hardware := 2 if {
	input.tpm.ak_anchored == true
	assurance_holds
}

# A TPM says nothing of how its machine is configured: no claim, unless its init-data is not bound.
configuration := 0 if {
	input.tpm
	initdata_holds
}

##### what holds for every platform #####

# Development evidence is good for nothing but development: whoever wants it graded says so by name.
assurance_holds if input.assurance == "hardware"

assurance_holds if query_reference_value("accept_development_assurance") == true

# Init-data that no register vouches for can be swapped by whoever starts the guest.
initdata_holds if not input.init_data_bound == false

# Intel's verdict on the platform's patch level. What is tolerated beyond "UpToDate" has a name: other
# statuses in `tcb_statuses`, or a number of days since the level's date in `tcb_tolerance_days`. A revoked
# platform is never tolerated.
tcb_holds(claims) if claims.tcb_status == "UpToDate"

tcb_holds(claims) if {
	claims.tcb_status != "Revoked"
	accepted("tcb_statuses", claims.tcb_status)
}

tcb_holds(claims) if {
	claims.tcb_status in {"OutOfDate", "OutOfDateConfigurationNeeded"}
	tolerated := query_reference_value("tcb_tolerance_days")
	is_number(tolerated)
	claims.tcb_age_days <= tolerated
}

# Only Turin's TCB version has an FMC; the verifier claims it of each machine that has one.
fmc_holds(name, claims) if {
	accepted(name, claims.reported_tcb_fmc)
} else if {
	is_null(object.get(claims, "reported_tcb_fmc", null))
}

kernel_event contains event if {
	some event in input.tdx.uefi_event_logs
	"File(kernel)" in event.details.device_paths
}

parameters_event contains event if {
	some event in input.tdx.uefi_event_logs
	event.details.string == "LOADED_IMAGE::LoadOptions"
}

event_of(type, events, reference) if {
	some event in events
	event.type_name == type
	some digest in event.digests
	accepted(reference, digest.digest)
}

# A reference value is a list of accepted values, or one accepted value. A name that nobody registered is
# null, which nothing equals here.
accepted(name, value) if {
	known := query_reference_value(name)
	value in known
	is_array(known)
	not is_null(value)
} else if {
	known := query_reference_value(name)
	value == known
	not is_array(known)
	not is_null(value)
}

# A bound must be a number: in Rego's order every number is above null.
at_least(name, value) if {
	bound := query_reference_value(name)
	is_number(bound)
	is_number(value)
	value >= bound
}

##### why a grade is bad: for the record, decides nothing #####

# The rules above once more, as a list that can be looked through. It decides nothing: findings name what a grade
# lacks, and `all_requirements` which reference values the rules ask for. Tests hold it to the rules.
#
# `reference`: the claim is among the reference values of that name. `at_least`: it is a number no lower
# than the reference value. `equals`: it is that value. Those of grade "... in full" decide between a good
# grade and the best one. `if_claimed`: some machines do not have it, and the verifier claims it of each that
# has.
requirements("sample") := [
	{"grade": "executables", "claim": ["launch_digest"], "reference": "launch_digest"},
	{"grade": "hardware", "claim": ["svn"], "reference": "svn"},
	{"grade": "hardware", "claim": ["platform_version", "major"], "reference": "major_version"},
	{"grade": "hardware", "claim": ["platform_version", "minor"], "at_least": "minimum_minor_version"},
	{"grade": "configuration", "claim": ["debug"], "equals": false},
]

requirements("snp") := [
	{"grade": "executables", "claim": ["measurement"], "reference": "snp_launch_measurement"},
	{"grade": "hardware", "claim": ["reported_tcb_bootloader"], "reference": "snp_bootloader"},
	{"grade": "hardware", "claim": ["reported_tcb_microcode"], "reference": "snp_microcode"},
	{"grade": "hardware", "claim": ["reported_tcb_snp"], "reference": "snp_snp_svn"},
	{"grade": "hardware", "claim": ["reported_tcb_tee"], "reference": "snp_tee_svn"},
	{"grade": "hardware", "claim": ["reported_tcb_fmc"], "reference": "snp_fmc", "if_claimed": true},
	{"grade": "configuration", "claim": ["policy_debug_allowed"], "equals": false},
	{"grade": "configuration", "claim": ["policy_migrate_ma"], "equals": false},
	{"grade": "configuration in full", "claim": ["platform_smt_enabled"], "reference": "snp_smt_enabled"},
	{"grade": "configuration in full", "claim": ["platform_tsme_enabled"], "reference": "snp_tsme_enabled"},
	{"grade": "configuration in full", "claim": ["policy_abi_major"], "reference": "snp_guest_abi_major"},
	{"grade": "configuration in full", "claim": ["policy_abi_minor"], "reference": "snp_guest_abi_minor"},
	{"grade": "configuration in full", "claim": ["policy_single_socket"], "reference": "snp_single_socket"},
	{"grade": "configuration in full", "claim": ["policy_smt_allowed"], "reference": "snp_smt_allowed"},
]

requirements("tdx") := [
	{"grade": "executables", "claim": ["quote", "body", "rtmr_1"], "reference": "rtmr_1"},
	{"grade": "executables", "claim": ["quote", "body", "rtmr_2"], "reference": "rtmr_2"},
	{"grade": "hardware", "claim": ["quote", "header", "tee_type"], "equals": "81000000"},
	{"grade": "hardware", "claim": ["quote", "header", "vendor_id"], "equals": "939a7233f79c4ca9940a0db3957f0607"},
	{"grade": "hardware", "claim": ["quote", "body", "mr_td"], "reference": "mr_td"},
	{"grade": "hardware", "claim": ["collateral_expiration_status"], "equals": "0"},
	{"grade": "configuration", "claim": ["td_attributes", "debug"], "equals": false},
	{"grade": "configuration", "claim": ["quote", "body", "xfam"], "reference": "xfam"},
]

requirements("az-snp-vtpm") := [
	{"grade": "executables", "claim": ["measurement"], "reference": "measurement"},
	{"grade": "executables", "claim": ["tpm", "pcr11"], "reference": "snp_pcr11"},
	{"grade": "hardware", "claim": ["reported_tcb_bootloader"], "reference": "tcb_bootloader"},
	{"grade": "hardware", "claim": ["reported_tcb_microcode"], "reference": "tcb_microcode"},
	{"grade": "hardware", "claim": ["reported_tcb_snp"], "reference": "tcb_snp"},
	{"grade": "hardware", "claim": ["reported_tcb_tee"], "reference": "tcb_tee"},
	{"grade": "hardware", "claim": ["reported_tcb_fmc"], "reference": "tcb_fmc", "if_claimed": true},
	{"grade": "configuration", "claim": ["policy_debug_allowed"], "equals": "false"},
	{"grade": "configuration", "claim": ["policy_migrate_ma"], "equals": "false"},
	{"grade": "configuration", "claim": ["platform_smt_enabled"], "reference": "smt_enabled"},
	{"grade": "configuration", "claim": ["platform_tsme_enabled"], "reference": "tsme_enabled"},
	{"grade": "configuration", "claim": ["policy_abi_major"], "reference": "abi_major"},
	{"grade": "configuration", "claim": ["policy_abi_minor"], "reference": "abi_minor"},
	{"grade": "configuration", "claim": ["policy_single_socket"], "reference": "single_socket"},
	{"grade": "configuration", "claim": ["policy_smt_allowed"], "reference": "smt_allowed"},
]

requirements("az-tdx-vtpm") := [
	{"grade": "executables", "claim": ["tpm", "pcr11"], "reference": "tdx_pcr11"},
	{"grade": "hardware", "claim": ["quote", "header", "tee_type"], "equals": "81000000"},
	{"grade": "hardware", "claim": ["quote", "header", "vendor_id"], "equals": "939a7233f79c4ca9940a0db3957f0607"},
	{"grade": "hardware", "claim": ["quote", "body", "mr_td"], "reference": "mr_td"},
	{"grade": "hardware", "claim": ["collateral_expiration_status"], "equals": "0"},
	{"grade": "configuration", "claim": ["td_attributes", "debug"], "equals": false},
	{"grade": "configuration", "claim": ["quote", "body", "xfam"], "reference": "xfam"},
]

requirements("tpm") := [
	{"grade": "executables", "claim": ["pcr11"], "reference": "tpm_pcr11"},
	{"grade": "executables", "claim": ["ak_public"], "reference": "trusted_aks"},
	{"grade": "hardware", "claim": ["ak_anchored"], "equals": true},
]

platforms := ["sample", "snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "tpm"]

platform := name if {
	some name in platforms
	input[name]
}

all_requirements[name] := requirements(name) if some name in platforms

evidence := input[platform]

findings contains {
	"rule": sprintf("%s: %s", [requirement.grade, source(requirement)]),
	"claim": concat(".", array.concat([platform], requirement.claim)),
	"expected": wanted(requirement),
	"actual": object.get(evidence, requirement.claim, "absent"),
} if {
	some requirement in requirements(platform)
	not endswith(requirement.grade, "in full")
	not met(requirement, object.get(evidence, requirement.claim, null))
}

met(requirement, claim) if {
	accepted(requirement.reference, claim)
} else if {
	requirement.equals == claim
} else if {
	at_least(requirement.at_least, claim)
} else if {
	requirement.if_claimed
	is_null(claim)
}

source(requirement) := sprintf("reference value %s", [requirement.reference])

source(requirement) := sprintf("at least reference value %s", [requirement.at_least])

source(requirement) := "required" if object.get(requirement, "equals", "none") != "none"

wanted(requirement) := requirement.equals

wanted(requirement) := known if {
	known := query_reference_value(requirement.reference)
	not is_null(known)
}

wanted(requirement) := sprintf("a reference value %s, and none is registered", [requirement.reference]) if {
	is_null(query_reference_value(requirement.reference))
}

wanted(requirement) := sprintf("at least %v", [bound]) if {
	bound := query_reference_value(requirement.at_least)
	is_number(bound)
}

wanted(requirement) := sprintf("a number as reference value %s, and none is registered", [requirement.at_least]) if {
	not is_number(query_reference_value(requirement.at_least))
}

findings contains {"rule": "hardware: evidence rests on hardware", "claim": "assurance", "expected": "hardware", "actual": object.get(input, "assurance", "absent")} if {
	not assurance_holds
}

findings contains {"rule": "hardware: the platform's patch level is tolerated", "claim": sprintf("%s.tcb_status", [platform]), "expected": "UpToDate", "actual": object.get(evidence, "tcb_status", "absent")} if {
	evidence.quote
	not tcb_holds(evidence)
}

findings contains {"rule": "configuration: init-data is bound by the platform", "claim": "init_data_bound", "expected": true, "actual": false} if {
	not initdata_holds
}
