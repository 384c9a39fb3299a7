# Grades the evidence of a GPU or another device: what the verifier proved goes in, an AR4SI trust vector comes out.
#
# Package, rule and reference-value names are those of the CoCo attestation service, so that a policy
# written for it works here. `requirements` is the one list that both the grades and their explanation
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

hardware := 2 if {
	assurance_holds
	holds("hardware")
}

configuration := 2 if holds("configuration")

executables := 3 if measurements_hold

##### what each device must show #####

# `reference`: the claim is among the reference values of that name. `equals`: it is that value.
requirements("nvidia") := [
	{"grade": "hardware", "claim": ["verifier"], "equals": "local"},
	{"grade": "configuration", "claim": ["config", "driver_version"], "reference": "allowed_driver_versions"},
	{"grade": "configuration", "claim": ["config", "vbios_version"], "reference": "allowed_vbios_versions"},
	{"grade": "configuration", "claim": ["config", "fwid"], "reference": "allowed_gpu_fwids"},
]

# A device without hardware has nothing to show of its configuration or its programs.
requirements("sampledevice") := [{"grade": "hardware", "claim": ["svn"], "reference": "device_svn"}]

platforms := ["nvidia", "sampledevice"]

# What the evidence's own platform must show.
required := requirements(platform)

# What any platform must show, for who asks which reference values to register. No grade reads it.
all_requirements[name] := requirements(name) if some name in platforms

platform := name if {
	some name in platforms
	input[name]
}

holds(grade) if {
	some requirement in required
	requirement.grade == grade
	every other in required {
		met(other, grade)
	}
}

# A requirement of another grade is none of this one.
met(requirement, grade) if requirement.grade != grade

met(requirement, _) if accepted(requirement.reference, claimed(requirement))

met(requirement, _) if requirement.equals == claimed(requirement)

claimed(requirement) := object.get(input[platform], requirement.claim, null)

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

##### measurements #####

# Those of the manifests that the maker signed, for exactly this driver and this VBIOS: the verifier compared.
measurements_hold if {
	input.nvidia.rim_checked == true
	input.nvidia.measurements_match == true
}

# Or those that the owner names: an object from index to one digest or to a list of them.
measurements_hold if {
	count(allowed_measurements) > 0
	every index, digests in allowed_measurements {
		digest_accepted(input.nvidia.measurements[index], digests)
	}
}

default allowed_measurements := {}

allowed_measurements := known if {
	known := query_reference_value("allowed_gpu_measurements")
	is_object(known)
}

digest_accepted(digest, digests) if {
	is_array(digests)
	digest in digests
}

digest_accepted(digest, digests) if {
	is_string(digests)
	digest == digests
}

##### what holds for every device #####

# Development evidence is good for nothing but development: whoever wants it graded says so by name.
assurance_holds if input.assurance == "hardware"

assurance_holds if query_reference_value("accept_development_assurance") == true

##### why a grade is bad: for the record, decides nothing #####

findings contains {
	"rule": sprintf("%s: %s", [requirement.grade, source(requirement)]),
	"claim": concat(".", array.concat([platform], requirement.claim)),
	"expected": wanted(requirement),
	"actual": object.get(input[platform], requirement.claim, "absent"),
} if {
	some requirement in required
	not met(requirement, requirement.grade)
}

source(requirement) := sprintf("reference value %s", [requirement.reference])

source(requirement) := "required" if requirement.equals

wanted(requirement) := requirement.equals

wanted(requirement) := known if {
	known := query_reference_value(requirement.reference)
	not is_null(known)
}

wanted(requirement) := sprintf("a reference value %s, and none is registered", [requirement.reference]) if {
	is_null(query_reference_value(requirement.reference))
}

findings contains {"rule": "hardware: evidence rests on hardware", "claim": "assurance", "expected": "hardware", "actual": object.get(input, "assurance", "absent")} if {
	not assurance_holds
}

findings contains {
	"rule": "executables: the maker's manifests, or reference value allowed_gpu_measurements",
	"claim": "nvidia.measurements",
	"expected": "the manifests of driver and VBIOS, or an object as reference value allowed_gpu_measurements; neither is there",
	"actual": "not compared",
} if {
	input.nvidia
	not measurements_hold
	count(allowed_measurements) == 0
}

findings contains {
	"rule": "executables: reference value allowed_gpu_measurements",
	"claim": sprintf("nvidia.measurements.%s", [index]),
	"expected": digests,
	"actual": object.get(input.nvidia, ["measurements", index], "absent"),
} if {
	input.nvidia
	not measurements_hold
	some index, digests in allowed_measurements
	not digest_accepted(input.nvidia.measurements[index], digests)
}
