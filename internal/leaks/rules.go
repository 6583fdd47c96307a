package leaks

import "slices"

// The rules of Search.
const (
	rulePrivateKey     = "private-key"      // a private key: PEM, OpenSSH, PuTTY, PGP, age, cosign, minisign
	ruleAWS            = "aws-key"          // an access key of Amazon Web Services
	ruleGCP            = "gcp-key"          // the key of a service account of Google Cloud
	ruleGitHub         = "github-token"     //
	ruleGitLab         = "gitlab-token"     //
	ruleSlack          = "slack-token"      // or a webhook
	ruleStripe         = "stripe-key"       // a live one
	ruleNPM            = "npm-token"        //
	rulePyPI           = "pypi-token"       //
	ruleDocker         = "docker-auth"      // a login to a registry
	ruleKubernetes     = "kubernetes-token" // a service account's
	ruleJWT            = "jwt"              // a signed token, where it is likely that it opens something
	ruleAPIKey         = "api-key"          // of other services whose keys have a shape of their own
	ruleCredentialFile = "credential-file"  // a file that tools keep logins in, with one
	ruleHistory        = "shell-history"    // of a shell, an interpreter, an editor
	rulePackageCache   = "package-cache"    // of a package manager or a compiler
	ruleCache          = "cache"            // of another program, in a home directory
	ruleConfig         = "config-secret"    // in the image's environment, labels, command or history
)

// The rules of Structure.
const (
	ruleRootUser      = "root-user"      // the main process is root's
	rulePort          = "exposed-port"   // the declared port is not among the image's
	ruleSetuid        = "setuid"         // a program that runs as another user or group
	ruleCapabilities  = "capabilities"   // a program that has capabilities of root's
	ruleWorldWritable = "world-writable" // a file or directory that everybody may change
	ruleDevice        = "device-node"    //
	ruleSize          = "size"           // of the image
	ruleLabel         = "label"          // one that is required
	rulePackage       = "package"        // one that is forbidden
	rulePath          = "forbidden-path" //
)

// ofSearch are Search's rules, and what to do about a finding of each.
var ofSearch = []struct{ rule, hint string }{
	{rulePrivateKey, "leave the key out of the build's context (.dockerignore), and replace it: who has the image has the key"},
	{ruleAWS, leaveOut},
	{ruleGCP, leaveOut},
	{ruleGitHub, leaveOut},
	{ruleGitLab, leaveOut},
	{ruleSlack, leaveOut},
	{ruleStripe, leaveOut},
	{ruleNPM, leaveOut},
	{rulePyPI, leaveOut},
	{ruleDocker, leaveOut},
	{ruleKubernetes, leaveOut},
	{ruleJWT, leaveOut},
	{ruleAPIKey, leaveOut},
	{ruleCredentialFile, "leave it out of the build's context (.dockerignore), and revoke what it opens: who has the image has it"},
	{ruleHistory, "remove it in the step that made it, or set HISTFILE= there"},
	{rulePackageCache, "remove it in the very step that fills it, or keep it out of the image (RUN --mount=type=cache)"},
	{ruleCache, "remove it in the very step that fills it, or keep it out of the image (RUN --mount=type=cache)"},
	{ruleConfig, "take it out of ENV, ARG, LABEL and the commands of the Containerfile, and revoke it: who has the image reads its configuration and its history"},
}

// leaveOut is what to do about most secrets.
const leaveOut = "leave it out of the build's context (.dockerignore), and revoke it: who has the image has it"

var ofStructure = []string{
	ruleRootUser, rulePort, ruleSetuid, ruleCapabilities, ruleWorldWritable, ruleDevice, ruleSize, ruleLabel, rulePackage, rulePath,
}

// RuleNames returns the names of all rules: Search's, then Structure's.
func RuleNames() []string {
	var out []string
	for _, r := range ofSearch {
		out = append(out, r.rule)
	}
	return append(out, ofStructure...)
}

// searched reports whether a rule is one of Search's.
func searched(rule string) bool { return !slices.Contains(ofStructure, rule) }

func hintOf(rule string) string {
	for _, r := range ofSearch {
		if r.rule == rule {
			return r.hint
		}
	}
	return ""
}

// severityOf returns how much a finding of a rule weighs: the package's doc says
// why.
func severityOf(f Finding) Severity {
	switch f.Rule {
	case ruleCache:
		return Warn
	case ruleCredentialFile, ruleHistory, rulePackageCache, ruleConfig:
		return Refuse
	}
	if f.Layer != Configuration && ofPackage(f.Path) && ofTests(f.Path) {
		return Warn
	}
	return Refuse
}
