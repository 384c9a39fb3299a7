# Decides whether a resource may leave: what holds until the owner writes a policy of their own.
#
# Every submodule of the token must be affirming by the appraisal policies that nobody has to ask for, must rest on
# hardware, and must not carry init-data that nothing binds. `checks` is the one list that both the verdict and its explanation read.
package policy

import rego.v1

default allow := false

allow if {
	data.plugin == "resource"
	count(input.submods) > 0
	every name, submod in input.submods {
		every check in checks(name, submod) {
			check.actual == check.expected
		}
	}
}

checks(name, submod) := [
	{
		"rule": "every submodule is affirming",
		"claim": sprintf("submods.%s.ear.status", [name]),
		"expected": "affirming",
		"actual": object.get(submod, "ear.status", "absent"),
	},
	{
		"rule": "the default policy graded it",
		"claim": sprintf("submods.%s.ear.appraisal-policy-id", [name]),
		"expected": "default",
		"actual": object.get(submod, "ear.appraisal-policy-id", "absent"),
	},
	{
		"rule": "evidence rests on hardware",
		"claim": sprintf("submods.%s.assurance", [name]),
		"expected": "hardware",
		"actual": object.get(submod, ["ear.veraison.annotated-evidence", "assurance"], "absent"),
	},
	{
		"rule": "init-data is bound by the platform",
		"claim": sprintf("submods.%s.init_data_bound", [name]),
		"expected": true,
		"actual": object.get(submod, ["ear.veraison.annotated-evidence", "init_data_bound"], true),
	},
]

denials contains check if {
	some name, submod in input.submods
	some check in checks(name, submod)
	check.actual != check.expected
}

denials contains {"rule": "a token names what it attests", "claim": "submods", "expected": "at least one", "actual": 0} if {
	count(object.get(input, "submods", {})) == 0
}

denials contains {"rule": "only resources are released", "claim": "plugin", "expected": "resource", "actual": data.plugin} if {
	data.plugin != "resource"
}
