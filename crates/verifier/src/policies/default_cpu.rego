# Grades the evidence of a CPU platform: what the verifier proved goes in, an AR4SI trust vector comes out.
#
# Package, rule and reference-value names are those of the CoCo attestation service, so that a policy
# written for it works here. `requirements` is the one table that both the grades and their explanation
# read; a grade that its requirements do not raise stays at its contraindicated default.
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

executables := best_executables if {
	holds("executables")
	best_executables := graded("executables", 3, 4)
}

hardware := 2 if {
	assurance_holds
	holds("hardware")
	tcb_holds
}

configuration := best_configuration if {
	initdata_holds
	holds("configuration")
	best_configuration := graded("configuration", 2, 3)
}

# A TPM says nothing of how its machine is configured: no claim, unless its init-data is not bound.
configuration := 0 if {
	input.tpm
	initdata_holds
}

##### what each platform must show #####

# `reference`: the claim is among the reference values of that name. `at_least`: it is a number no lower
# than the reference value. `equals`: it is that value. Those of grade "... in full" decide between a good
# grade and the best one. `if_claimed`: some machines do not have it, and the verifier claims it of each that
# has: of all TCB versions Turin's alone has an FMC.
requirements := {
	"sample": [
		{"grade": "executables", "claim": ["launch_digest"], "reference": "launch_digest"},
		{"grade": "hardware", "claim": ["svn"], "reference": "svn"},
		{"grade": "hardware", "claim": ["platform_version", "major"], "reference": "major_version"},
		{"grade": "hardware", "claim": ["platform_version", "minor"], "at_least": "minimum_minor_version"},
		{"grade": "configuration", "claim": ["debug"], "equals": false},
	],
	"snp": [
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
	],
	"tdx": [
		{"grade": "executables", "claim": ["quote", "body", "rtmr_1"], "reference": "rtmr_1"},
		{"grade": "executables", "claim": ["quote", "body", "rtmr_2"], "reference": "rtmr_2"},
		{"grade": "hardware", "claim": ["quote", "header", "tee_type"], "equals": "81000000"},
		{"grade": "hardware", "claim": ["quote", "header", "vendor_id"], "equals": "939a7233f79c4ca9940a0db3957f0607"},
		{"grade": "hardware", "claim": ["quote", "body", "mr_td"], "reference": "mr_td"},
		{"grade": "hardware", "claim": ["collateral_expiration_status"], "equals": "0"},
		{"grade": "configuration", "claim": ["td_attributes", "debug"], "equals": false},
		{"grade": "configuration", "claim": ["quote", "body", "xfam"], "reference": "xfam"},
	],
	"az-snp-vtpm": [
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
	],
	"az-tdx-vtpm": [
		{"grade": "executables", "claim": ["tpm", "pcr11"], "reference": "tdx_pcr11"},
		{"grade": "hardware", "claim": ["quote", "header", "tee_type"], "equals": "81000000"},
		{"grade": "hardware", "claim": ["quote", "header", "vendor_id"], "equals": "939a7233f79c4ca9940a0db3957f0607"},
		{"grade": "hardware", "claim": ["quote", "body", "mr_td"], "reference": "mr_td"},
		{"grade": "hardware", "claim": ["collateral_expiration_status"], "equals": "0"},
		{"grade": "configuration", "claim": ["td_attributes", "debug"], "equals": false},
		{"grade": "configuration", "claim": ["quote", "body", "xfam"], "reference": "xfam"},
	],
	"tpm": [
		{"grade": "executables", "claim": ["pcr11"], "reference": "tpm_pcr11"},
		{"grade": "executables", "claim": ["ak_public"], "reference": "trusted_aks"},
		{"grade": "hardware", "claim": ["ak_anchored"], "equals": true},
	],
}

platform := name if {
	some name, _ in requirements
	input[name]
}

holds(grade) if {
	requirements[platform]
	not tpm_configuration(grade)
	not grade in unmet
}

# A TPM's configuration has a rule of its own, above.
tpm_configuration("configuration") if platform == "tpm"

# The grades that some requirement denies: each requirement is looked at once.
unmet contains requirement.grade if {
	some requirement in requirements[platform]
	not met(requirement)
}

met(requirement) if {
	name := requirement.reference
	accepted(name, claimed(requirement))
}

met(requirement) if {
	name := requirement.at_least
	at_least(name, claimed(requirement))
}

met(requirement) if requirement.equals == claimed(requirement)

met(requirement) if {
	requirement.if_claimed
	is_null(claimed(requirement))
}

claimed(requirement) := object.get(input[platform], requirement.claim, null)

graded(grade, best, good) := best if in_full(grade) else := good

in_full("configuration") if not "configuration in full" in unmet

in_full("executables") if platform != "tdx"

in_full("executables") if {
	event_of("EV_EFI_BOOT_SERVICES_APPLICATION", kernel_event, "tdvfkernel")
	event_of("EV_EVENT_TAG", parameters_event, "tdvfkernelparams")
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
	is_array(known)
	not is_null(value)
	value in known
}

accepted(name, value) if {
	known := query_reference_value(name)
	not is_array(known)
	not is_null(known)
	value == known
}

# A bound must be a number: in Rego's order every number is above null.
at_least(name, value) if {
	bound := query_reference_value(name)
	is_number(bound)
	is_number(value)
	value >= bound
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
tcb_holds if not input[platform].quote

tcb_holds if input[platform].tcb_status == "UpToDate"

tcb_holds if {
	input[platform].tcb_status != "Revoked"
	accepted("tcb_statuses", input[platform].tcb_status)
}

tcb_holds if {
	input[platform].tcb_status in {"OutOfDate", "OutOfDateConfigurationNeeded"}
	tolerated := query_reference_value("tcb_tolerance_days")
	is_number(tolerated)
	input[platform].tcb_age_days <= tolerated
}

##### why a grade is bad: for the record, decides nothing #####

findings contains {
	"rule": sprintf("%s: %s", [requirement.grade, source(requirement)]),
	"claim": concat(".", array.concat([platform], requirement.claim)),
	"expected": wanted(requirement),
	"actual": object.get(input[platform], requirement.claim, "absent"),
} if {
	some requirement in requirements[platform]
	not endswith(requirement.grade, "in full")
	not met(requirement)
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

findings contains {"rule": "hardware: the platform's patch level is tolerated", "claim": sprintf("%s.tcb_status", [platform]), "expected": "UpToDate", "actual": object.get(input[platform], "tcb_status", "absent")} if {
	not tcb_holds
}

findings contains {"rule": "configuration: init-data is bound by the platform", "claim": "init_data_bound", "expected": true, "actual": false} if {
	not initdata_holds
}
