# Grades the evidence of a CPU platform: what the verifier proved goes in, an AR4SI trust vector comes out.
#
# Package, rule and reference-value names are those of the CoCo attestation service, so that a policy
# written for it works here. A value that no rule below raises stays at its contraindicated default.
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

# A reference value is a list of accepted values, or one accepted value. A name that nobody registered is
# null, which nothing equals here.
accepted(name, value) if {
	known := query_reference_value(name)
	is_array(known)
	value in known
}

accepted(name, value) if {
	known := query_reference_value(name)
	not is_array(known)
	not is_null(known)
	value == known
}

# A lower bound must be a number: in Rego's order every number is above null.
at_least(name, value) if {
	bound := query_reference_value(name)
	is_number(bound)
	is_number(value)
	value >= bound
}

# Init-data that no register vouches for can be swapped by whoever starts the guest.
initdata_holds if not input.init_data_bound == false

##### sample: no hardware, for tests and development #####

executables := 3 if {
	accepted("launch_digest", input.sample.launch_digest)
}

hardware := 2 if {
	accepted("svn", input.sample.svn)
	accepted("major_version", input.sample.platform_version.major)
	at_least("minimum_minor_version", input.sample.platform_version.minor)
}

configuration := 2 if {
	input.sample.debug == false
	initdata_holds
}

##### why a grade is bad: for the record, decides nothing #####

wanted(name) := known if {
	known := query_reference_value(name)
	not is_null(known)
}

wanted(name) := sprintf("a reference value %s, and none is registered", [name]) if is_null(query_reference_value(name))

wanted_at_least(name) := sprintf("at least %v", [bound]) if {
	bound := query_reference_value(name)
	is_number(bound)
}

wanted_at_least(name) := sprintf("a number as reference value %s, and none is registered", [name]) if {
	not is_number(query_reference_value(name))
}

sample_claim(path) := object.get(input.sample, path, "absent")

findings contains {"rule": "executables: reference value launch_digest", "claim": "sample.launch_digest", "expected": wanted("launch_digest"), "actual": actual} if {
	input.sample
	actual := sample_claim(["launch_digest"])
	not accepted("launch_digest", input.sample.launch_digest)
}

findings contains {"rule": "hardware: reference value svn", "claim": "sample.svn", "expected": wanted("svn"), "actual": actual} if {
	input.sample
	actual := sample_claim(["svn"])
	not accepted("svn", input.sample.svn)
}

findings contains {"rule": "hardware: reference value major_version", "claim": "sample.platform_version.major", "expected": wanted("major_version"), "actual": actual} if {
	input.sample
	actual := sample_claim(["platform_version", "major"])
	not accepted("major_version", input.sample.platform_version.major)
}

findings contains {"rule": "hardware: reference value minimum_minor_version", "claim": "sample.platform_version.minor", "expected": wanted_at_least("minimum_minor_version"), "actual": actual} if {
	input.sample
	actual := sample_claim(["platform_version", "minor"])
	not at_least("minimum_minor_version", input.sample.platform_version.minor)
}

findings contains {"rule": "configuration: no debugging", "claim": "sample.debug", "expected": false, "actual": actual} if {
	input.sample
	actual := sample_claim(["debug"])
	not input.sample.debug == false
}

findings contains {"rule": "configuration: init-data is bound by the platform", "claim": "init_data_bound", "expected": true, "actual": false} if {
	not initdata_holds
}
