package leaks

import (
	"bytes"
	"encoding/base64"
	"hash/crc32"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// shape is what tokens of one kind look like.
type shape struct {
	rule     string
	kind     string                  // for people
	literals []string                // what it begins with: one of these
	form     func() *regexp.Regexp   // of the whole; a group, if it has one, is the secret
	holds    func(token []byte) bool // what the form cannot say
}

// longestToken bounds how far a token is looked at.
const longestToken = 512 // bytes

// form compiles a token's shape: it is looked for where a literal was found, and
// nowhere else.
func form(s string) func() *regexp.Regexp { return expression(`^(?:` + s + `)`) }

// shapes are the tokens that can be told by their shape alone, as their makers
// describe them.
var shapes = []shape{
	// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
	{ruleAWS, "an access key of AWS", []string{"AKIA", "ASIA", "ABIA", "ACCA"}, form(`A(?:KI|SI|BI|CC)A[A-Z0-9]{16}`), isAWS},
	{ruleAWS, "a secret access key of AWS", []string{"secret_access_key", "SECRET_ACCESS_KEY", "ecretAccessKey"}, form(`(?i)s?ecret_?access_?key\w*["']?\s{0,4}[:=]\s{0,4}["']?([A-Za-z0-9/+]{40})`), isDrawn},
	// https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/
	{ruleGitHub, "a token of GitHub", []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, form(`gh[pousr]_(?:[A-Za-z0-9]{76}|[A-Za-z0-9]{36})`), isGitHub},
	{ruleGitHub, "a token of GitHub", []string{"github_pat_"}, form(`github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}`), isDrawn},
	// https://docs.gitlab.com/security/tokens/#token-prefixes
	{
		ruleGitLab, "a token of GitLab",
		[]string{"glpat-", "gldt-", "glrt-", "glrtr-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "glsoat-", "glffct-", "glwt-"},
		form(`gl(?:pat|dt|rtr?|cbt|ptt|ft|imt|agent|soat|ffct|wt)-[A-Za-z0-9_-]{20,300}(?:\.[0-9a-z]{2}\.?[0-9a-z]{7,9})?`), isDrawn,
	},
	// https://api.slack.com/concepts/token-types
	{ruleSlack, "a token of Slack", []string{"xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xoxe."}, form(`xox[abeprs][-.](?:xox[bp]-)?[0-9]{1,14}-[A-Za-z0-9-]{20,250}`), isDrawn},
	{ruleSlack, "a token of Slack", []string{"xapp-"}, form(`xapp-[0-9]{1,10}-[A-Z0-9]{8,14}-[0-9]{10,14}-[a-f0-9]{64}`), isDrawn},
	{ruleSlack, "a webhook of Slack", []string{"hooks.slack.com/services/"}, form(`hooks\.slack\.com/services/T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{20,28}`), isDrawn},
	// https://docs.stripe.com/keys
	{ruleStripe, "a live key of Stripe", []string{"sk_live_", "rk_live_"}, form(`[sr]k_live_[A-Za-z0-9]{16,200}`), isDrawn},
	{ruleStripe, "a signing secret of a Stripe webhook", []string{"whsec_"}, form(`whsec_[A-Za-z0-9+/]{32,64}`), isDrawn},
	// https://github.blog/changelog/2021-09-23-npm-has-a-new-access-token-format/
	{ruleNPM, "a token of npm", []string{"npm_"}, form(`npm_[A-Za-z0-9]{36}`), isDrawn},
	// https://pypi.org/help/#apitoken; a macaroon whose location is pypi.org or test.pypi.org
	{rulePyPI, "a token of PyPI", []string{"pypi-AgEIcHlwaS5vcmc", "pypi-AgENdGVzdC5weXBpLm9yZw"}, form(`pypi-AgE[A-Za-z0-9_-]{60,480}`), isMacaroon},
	// https://docs.docker.com/security/access-tokens/
	{ruleDocker, "an access token of Docker Hub", []string{"dckr_pat_", "dckr_oat_"}, form(`dckr_[po]at_[A-Za-z0-9_-]{27,40}`), isDrawn},
	// Others whose shape cannot be taken for anything else.
	{ruleAPIKey, "a key of Anthropic", []string{"sk-ant-"}, form(`sk-ant-[a-z]{3,8}[0-9]{2}-[A-Za-z0-9_-]{80,120}`), isDrawn},
	{ruleAPIKey, "a key of OpenAI", []string{"sk-proj-", "sk-svcacct-", "sk-admin-"}, form(`sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,90}T3BlbkFJ[A-Za-z0-9_-]{20,90}`), isDrawn},
	{ruleAPIKey, "a token of DigitalOcean", []string{"dop_v1_", "doo_v1_", "dor_v1_"}, form(`do[opr]_v1_[a-f0-9]{64}`), isDrawn},
	{ruleAPIKey, "a token of Vault", []string{"hvs.", "hvb."}, form(`hv[sb]\.[A-Za-z0-9_-]{24,300}`), isDrawn},
	{ruleAPIKey, "a token of Terraform Cloud", []string{".atlasv1."}, form(`\.atlasv1\.[A-Za-z0-9_-]{60,70}`), isDrawn},
	{ruleAPIKey, "a token of Shopify", []string{"shpat_", "shpss_", "shpca_", "shppa_"}, form(`shp(?:at|ss|ca|pa)_[a-fA-F0-9]{32}`), isDrawn},
	{ruleAPIKey, "a key of RubyGems", []string{"rubygems_"}, form(`rubygems_[a-f0-9]{48}`), isDrawn},
	{ruleAPIKey, "a token of Grafana", []string{"glsa_"}, form(`glsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}`), isDrawn},
	{ruleAPIKey, "a key of an Azure storage account", []string{"AccountKey="}, form(`AccountKey=([A-Za-z0-9+/]{86}==)`), isAzure},
}

// match returns the token of a shape that begins where a literal was found, and
// what of it is secret.
func (s *shape) match(window []byte, at int) ([]byte, bool) {
	if at > 0 && wordByte(window[at-1]) && !slices.Contains(inWords, s.literals[0]) {
		return nil, false // in the midst of something else
	}
	rest := window[at:min(len(window), at+longestToken)]
	m := s.form().FindSubmatchIndex(rest)
	if m == nil || m[1] < len(rest) && wordByte(rest[m[1]]) {
		return nil, false
	}
	token := rest[:m[1]]
	if len(m) > 2 && m[2] >= 0 {
		token = rest[m[2]:m[3]]
	}
	if !s.holds(token) || bytes.Contains(bytes.ToUpper(token), []byte("EXAMPLE")) {
		return nil, false
	}
	return token, true
}

// inWords are the first literals of the shapes that may begin within a word.
var inWords = []string{"secret_access_key", ".atlasv1."}

// wordByte reports whether a byte may be within a token: one that touches such a
// byte is part of something longer.
func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// secretPart returns what follows a token's prefix.
func secretPart(token []byte) []byte {
	i := bytes.LastIndexAny(token[:min(len(token), 16)], "_-.")
	return token[i+1:]
}

// isDrawn tells tokens from the examples of a manual: random characters have more
// bits the longer they are, hexadecimal ones four at most.
func isDrawn(token []byte) bool {
	part := secretPart(token)
	if len(part) < 12 {
		return false
	}
	return random(part, min(3.0, 0.72*maxBits(len(part))))
}

// maxBits is the entropy of n different characters.
func maxBits(n int) float64 {
	bits := 0.0
	for ; n > 1; n /= 2 {
		bits++
	}
	return bits
}

// isAWS tells an access key's identifier from capital letters that only begin like
// one.
func isAWS(token []byte) bool { return entropy(token[4:]) >= 2.8 && !sequence(token[4:]) }

// isGitHub believes a token's checksum, and, where that does not hold, what cannot
// be told from a token by its looks: to be wrong there costs a line in a list, to
// miss one costs a repository.
func isGitHub(token []byte) bool {
	return checksumHolds(token) || random(token[4:], 4.2) && bytes.ContainsAny(token[4:], "0123456789") && mixedCase(token[4:])
}

func mixedCase(s []byte) bool {
	return bytes.ContainsAny(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") && bytes.ContainsAny(s, "abcdefghijklmnopqrstuvwxyz")
}

// base62 are GitHub's digits, in the order of their values.
const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// checksumHolds reports whether the last six characters of PREFIX_TOKEN are the
// CRC-32 of those between prefix and them.
func checksumHolds(token []byte) bool {
	_, rest, ok := bytes.Cut(token, []byte("_"))
	if !ok || len(rest) <= 6 {
		return false
	}
	sum := crc32.ChecksumIEEE(rest[:len(rest)-6])
	for i := len(rest) - 1; i >= len(rest)-6; i-- {
		if rest[i] != base62[sum%62] {
			return false
		}
		sum /= 62
	}
	return true
}

// isMacaroon reports whether what follows pypi- is base64 of a macaroon's second
// format: https://github.com/rescrv/libmacaroons/blob/master/doc/format.txt
func isMacaroon(token []byte) bool {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(string(token[len("pypi-"):]), "="))
	if err != nil { // its length may be cut at what the form takes
		return isDrawn(token)
	}
	return len(raw) > 40 && raw[0] == 2
}

// isAzure knows the key that the storage emulator has for everybody:
// https://learn.microsoft.com/azure/storage/common/storage-use-azurite
func isAzure(key []byte) bool {
	return !bytes.HasPrefix(key, []byte("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1")) && random(key, 4.5)
}

// plural is for messages.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
