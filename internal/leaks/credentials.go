package leaks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

// login is something in a file of credentials.
type login struct {
	at   int // byte of the text
	what string
}

// credentialFile is a file in which a tool keeps logins.
type credentialFile struct {
	patterns []string // of its path
	kind     string   // for people
	logins   func(text []byte) []login
}

// credentialFiles are the known ones; the first that fits counts.
var credentialFiles = []credentialFile{
	{[]string{"**/.netrc", "**/_netrc", "/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*"}, "logins of .netrc", settings(`\bpassword\s+(\S+)`, false)},
	{[]string{"**/.npmrc", "**/etc/npmrc", "**/.yarnrc", "**/.yarnrc.yml"}, "a login of npm", settings(`(?m)^[^#;\n]*(?:_authToken|_auth|_password|npmAuthToken|npmAuthIdent)["']?\s*[=:\s]\s*["']?([^\s"']+)`, true)},
	{[]string{"**/.pypirc"}, "a login of .pypirc", settings(`(?m)^\s*password\s*[=:]\s*(\S+)`, false)},
	{[]string{"**/.git-credentials", "**/.config/git/credentials", "**/.git/config", "**/.gitconfig", "**/.config/git/config", "/etc/gitconfig", "**/.gitmodules"}, "a login of git", gitLogins},
	{[]string{"**/.docker/config.json", "**/.dockercfg", "**/.dockerconfigjson", "**/containers/auth.json"}, "a login to a registry", dockerLogins},
	{[]string{"**/.aws/credentials", "**/.aws/config", "**/.boto", "/etc/boto.cfg", "**/.s3cfg", "**/.passwd-s3fs", "**/rclone.conf"}, "an access key", settings(`(?im)^\s*(?:aws_secret_access_key|aws_session_token|secret_key|secret_access_key|access_token|pass)\s*=\s*(\S+)`, false)},
	{[]string{"**/.config/gcloud/application_default_credentials.json", "**/.config/gcloud/legacy_credentials/**"}, "a login of gcloud", settings(`"(?:refresh_token|private_key)"\s*:\s*"([^"]+)"`, false)},
	{[]string{"**/.config/gcloud/credentials.db", "**/.config/gcloud/access_tokens.db", "**/.mylogin.cnf", "**/.vault-token", "/run/secrets/**", "/var/run/secrets/**"}, "a secret", wholeFile},
	{[]string{"**/.azure/accessTokens.json", "**/.azure/msal_token_cache.json"}, "a login of Azure", settings(`"(?:refreshToken|accessToken|secret)"\s*:\s*"([^"]+)"`, false)},
	{[]string{"**/.ssh/id_*", "**/.ssh/identity"}, "a key of SSH", wholeFile},
	{[]string{"**/.env", "**/.env.*", "**/.envrc"}, "secrets of an .env file", envLogins},
	{[]string{"**/pip.conf", "**/pip/pip.ini", "**/.config/uv/uv.toml", "/etc/uv/uv.toml"}, "a login of pip", urlLogins},
	{[]string{"**/pypoetry/auth.toml"}, "a login of Poetry", settings(`(?m)^\s*(?:password|pypi-token\.\S+)\s*=\s*"([^"]+)"`, false)},
	{[]string{"**/.m2/settings.xml", "**/maven/settings.xml", "**/maven/conf/settings.xml", "**/.m2/settings-security.xml"}, "a login of Maven", mavenLogins},
	{[]string{"**/.gradle/gradle.properties", "**/.gradle/init.gradle"}, "a login of Gradle", settings(`(?im)^\s*[\w.]*(?:password|token|secret)\s*[=:]?\s*["']?([^\s"']+)`, true)},
	{[]string{"**/.pgpass"}, "a password of PostgreSQL", settings(`(?m)^[^#\n:]+:[^:\n]+:[^:\n]+:[^:\n]+:(.+)$`, false)},
	{[]string{"**/.my.cnf", "/etc/mysql/debian.cnf"}, "a password of MySQL", settings(`(?m)^\s*password\s*=\s*["']?([^\s"']+)`, false)},
	{[]string{"**/.kube/config", "**/kubeconfig", "/etc/kubernetes/*.conf", "/etc/rancher/*/*.yaml"}, "a login of Kubernetes", settings(`(?m)^\s*(?:-\s*)?(?:client-key-data|token|password)\s*:\s*["']?([^\s"']+)`, true)},
	{[]string{"**/.cargo/credentials", "**/.cargo/credentials.toml", "/usr/local/cargo/credentials*"}, "a login of Cargo", settings(`(?m)^\s*token\s*=\s*"([^"]+)"`, true)},
	{[]string{"**/.gem/credentials", "**/.local/share/gem/credentials", "**/.bundle/config"}, "a login of RubyGems", settings(`(?m)^\s*(?::\w*api_key|BUNDLE_\w+)\s*:\s*["']?([0-9a-zA-Z_.~-]+:\S+|rubygems_\w+|[0-9a-f]{32,})`, true)},
	{[]string{"**/gh/hosts.yml", "**/.config/hub", "**/glab-cli/config.yml"}, "a login of GitHub or GitLab", settings(`(?m)^\s*(?:-\s*)?(?:oauth_token|token)\s*:\s*["']?([^\s"']+)`, true)},
	{[]string{"**/composer/auth.json", "**/.composer/auth.json"}, "a login of Composer", settings(`"(?:password|github\.com|gitlab\.com|[\w.-]+\.[a-z]{2,})"\s*:\s*"([^"]{8,})"`, true)},
	{[]string{"**/.terraformrc", "**/.terraform.d/credentials.tfrc.json"}, "a login of Terraform", settings(`"?token"?\s*[=:]\s*"([^"]+)"`, true)},
	{[]string{"**/NuGet.Config", "**/nuget.config", "**/NuGet/NuGet.Config"}, "a login of NuGet", settings(`(?i)"(?:ClearTextPassword|Password)"\s+value\s*=\s*"([^"]+)"`, true)},
	{[]string{"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-"}, "the hash of a password", settings(`(?m)^[^:\n]+:!{0,2}(\$[0-9a-z]{1,8}\$[^:\n]+|[A-Za-z0-9./]{13}|_[A-Za-z0-9./]{19}):`, false)},
}

// credentialsOf returns what kind of credentials a file of that path has; nil:
// none that is known.
func credentialsOf(file string) *credentialFile {
	for i := range credentialFiles {
		c := &credentialFiles[i]
		if slices.ContainsFunc(c.patterns, func(p string) bool { return endsLike(p, file) && matches(p, file) }) {
			if strings.HasSuffix(file, ".pub") || sample(file) {
				return nil
			}
			return c
		}
	}
	return nil
}

// endsLike spares most paths the whole of matches: few end as a pattern does.
func endsLike(pattern, file string) bool {
	last := pattern[strings.LastIndexByte(pattern, '/')+1:]
	return strings.ContainsAny(last, "*?") || strings.HasSuffix(file, last)
}

// sample reports whether a file's name says that it is an example.
func sample(file string) bool {
	for _, end := range []string{".example", ".sample", ".template", ".tmpl", ".dist", ".defaults", ".schema", ".md", "-example", "-sample"} {
		if strings.HasSuffix(file, end) {
			return true
		}
	}
	return false
}

// settings returns a judge that finds what an expression's group holds, where it
// is not a reference to something else, nor, if words are asked about, a word that
// stands for a secret.
func settings(text string, words bool) func([]byte) []login {
	re := expression(text)
	return func(text []byte) []login {
		var found []login
		for _, m := range re().FindAllSubmatchIndex(text, mostLogins) {
			value := string(text[m[2]:m[3]])
			if words && placeholder(value) || reference(value) || strings.Trim(value, "*xX.") == "" {
				continue
			}
			found = append(found, login{m[2], masked(text[m[2]:m[3]])})
		}
		return found
	}
}

// mostLogins bounds what is told of one file.
const mostLogins = 16

// urlLogins finds URLs with a password.
func urlLogins(text []byte) []login {
	var found []login
	for _, m := range urlWithPassword().FindAllSubmatchIndex(text, mostLogins) {
		if !placeholder(string(text[m[2]:m[3]])) {
			found = append(found, login{m[2], masked(text[m[2]:m[3]])})
		}
	}
	return found
}

var gitHeader = settings(`(?i)extraheader\s*=\s*"?authorization:\s*\w+\s+(\S+)`, false)

// tokenUser is a URL whose user is a token, without a password.
var tokenUser = settings(`://([A-Za-z0-9_-]{20,}):?@`, false)

func gitLogins(text []byte) []login {
	return slices.Concat(urlLogins(text), gitHeader(text), tokenUser(text))
}

// wholeFile judges a file that has nothing but a secret in it.
func wholeFile(text []byte) []login {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	return []login{{0, plural(len(text), "byte", "bytes")}}
}

// dockerLogins reads a configuration of docker, podman and their like:
// https://docs.docker.com/reference/cli/docker/#docker-cli-configuration-file-configjson-properties
func dockerLogins(text []byte) []login {
	type auth struct {
		Auth     string `json:"auth"`
		Password string `json:"password"`
		Identity string `json:"identitytoken"`
		Registry string `json:"registrytoken"`
	}
	var file struct {
		Auths map[string]auth `json:"auths"`
	}
	if json.Unmarshal(text, &file) != nil {
		return nil
	}
	if file.Auths == nil { // .dockercfg has them outermost
		_ = json.Unmarshal(text, &file.Auths) // it has another form, and then no logins
	}
	var found []login
	for _, a := range file.Auths {
		raw, _ := base64.StdEncoding.DecodeString(a.Auth)
		_, password, _ := strings.Cut(string(raw), ":")
		for _, secret := range []string{password, a.Password, a.Identity, a.Registry} {
			if secret == "" || placeholder(secret) {
				continue
			}
			shown := secret
			if secret == password {
				shown = a.Auth
			}
			found = append(found, login{max(0, bytes.Index(text, []byte(shown))), masked([]byte(secret))})
		}
	}
	slices.SortFunc(found, func(a, b login) int { return a.at - b.at })
	return found[:min(len(found), mostLogins)]
}

var xmlComment = expression(`(?s)<!--.*?-->`)

var mavenSetting = settings(`<(?:password|passphrase|privateKey|master)>\s*([^<\s]+)\s*</`, true)

// mavenLogins reads what is not commented out; what is encrypted is in braces.
func mavenLogins(text []byte) []login {
	return mavenSetting(xmlComment().ReplaceAllFunc(text, func(c []byte) []byte {
		blank := bytes.Repeat([]byte(" "), len(c))
		for i, b := range c {
			if b == '\n' {
				blank[i] = b
			}
		}
		return blank
	}))
}

// assignment is NAME=VALUE, as shells, .env files and instructions have it.
var assignment = expression(`(?m)(?:^|[\s;&|"'])(?:export\s+|set\s+|--)?([A-Za-z_][A-Za-z0-9_.-]*)\s?[=:]\s?(?:"([^"\n]*)"|'([^'\n]*)'|([^\s"'#;&|)]*))`)

// envLogins finds variables that are secrets by their names, and URLs with a
// password.
func envLogins(text []byte) []login {
	return append(assignedSecrets(text), urlLogins(text)...)
}

func assignedSecrets(text []byte) []login {
	var found []login
	for _, m := range assignment().FindAllSubmatchIndex(text, 4096) {
		name := string(text[m[2]:m[3]])
		for _, g := range []int{4, 6, 8} {
			if m[g] < 0 || len(found) == mostLogins {
				continue
			}
			if value := text[m[g]:m[g+1]]; secretName(name) && opens(string(value)) && !urlWithPassword().Match(value) {
				found = append(found, login{m[2], "the value of " + clip(name) + ", " + masked(value)})
			}
		}
	}
	return found
}
