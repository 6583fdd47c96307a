package leaks

import (
	"path"
	"slices"
	"strings"
)

// histories are the names of files in which shells, interpreters and editors keep
// what was typed.
var histories = []string{
	".bash_history", ".zsh_history", ".zhistory", ".zsh_sessions", ".history", ".sh_history", ".ash_history", ".ksh_history", ".mksh_history", ".tcsh_history", ".busybox_history",
	"fish_history", ".python_history", ".ipython_history", ".node_repl_history", ".ts_node_repl_history", ".irb_history", ".irb-history", ".pry_history", ".php_history", ".psysh_history",
	".psql_history", ".mysql_history", ".mariadb_history", ".sqlite_history", ".rediscli_history", ".mongosh_repl_history", ".dbshell", ".cqlsh_history", ".influx_history",
	".viminfo", ".lesshst", ".wget-hsts", ".Rhistory", ".scala_history", ".octave_hist", ".gdb_history", ".lldb-history", ".units_history", ".sdbshell", ".erlang-history",
}

// isHistory reports whether a file of that path keeps what was typed.
func isHistory(file string) bool {
	return slices.Contains(histories, path.Base(file)) || matches("**/.local/share/nvim/shada/*.shada", file) || matches("**/.local/share/nano/*_history", file)
}

// cache is where a program keeps what it can get again.
type cache struct {
	pattern string // of the files
	dir     string // what the pattern's first names are, for people; the finding's path ends with it
	what    string
	rule    string
}

// caches are the known ones; the first that fits counts.
var caches = []cache{
	{"/var/cache/apt/archives/**.deb", "/var/cache/apt/archives", "packages that apt has downloaded", rulePackageCache},
	{"/var/cache/apt/*.bin", "/var/cache/apt", "apt's cache of package lists", rulePackageCache},
	{"/var/lib/apt/lists/**", "/var/lib/apt/lists", "package lists of apt", rulePackageCache},
	{"/var/cache/apk/**", "/var/cache/apk", "the cache of apk", rulePackageCache},
	{"/etc/apk/cache/**", "/etc/apk/cache", "the cache of apk", rulePackageCache},
	{"/var/cache/dnf/**", "/var/cache/dnf", "the cache of dnf", rulePackageCache},
	{"/var/cache/libdnf5/**", "/var/cache/libdnf5", "the cache of dnf", rulePackageCache},
	{"/var/cache/yum/**", "/var/cache/yum", "the cache of yum", rulePackageCache},
	{"/var/cache/zypp/**", "/var/cache/zypp", "the cache of zypper", rulePackageCache},
	{"/var/cache/pacman/pkg/**", "/var/cache/pacman/pkg", "the cache of pacman", rulePackageCache},
	{"**/.cache/pip/**", "/.cache/pip", "the cache of pip", rulePackageCache},
	{"**/.cache/uv/**", "/.cache/uv", "the cache of uv", rulePackageCache},
	{"**/.cache/pypoetry/**", "/.cache/pypoetry", "the cache of Poetry", rulePackageCache},
	{"**/.cache/go-build/**", "/.cache/go-build", "the build cache of Go", rulePackageCache},
	{"**/.cache/yarn/**", "/.cache/yarn", "the cache of Yarn", rulePackageCache},
	{"**/.cache/composer/**", "/.cache/composer", "the cache of Composer", rulePackageCache},
	{"**/.cache/bazel/**", "/.cache/bazel", "the cache of Bazel", rulePackageCache},
	{"**/.cache/ccache/**", "/.cache/ccache", "the cache of ccache", rulePackageCache},
	{"**/.npm/_cacache/**", "/.npm/_cacache", "the cache of npm", rulePackageCache},
	{"**/.npm/_logs/**", "/.npm/_logs", "the logs of npm", rulePackageCache},
	{"**/pkg/mod/cache/download/**", "/pkg/mod/cache/download", "modules that Go has downloaded", rulePackageCache},
	{"**/.cargo/registry/cache/**", "/.cargo/registry/cache", "crates that Cargo has downloaded", rulePackageCache},
	{"/usr/local/cargo/registry/cache/**", "/usr/local/cargo/registry/cache", "crates that Cargo has downloaded", rulePackageCache},
	{"**/.gradle/caches/**", "/.gradle/caches", "the caches of Gradle", rulePackageCache},
	{"**/.bundle/cache/**", "/.bundle/cache", "the cache of Bundler", rulePackageCache},
	{"/usr/local/share/.cache/**", "/usr/local/share/.cache", "the cache of Yarn", rulePackageCache},
	{"/root/.cache/**", "/root/.cache", "caches in root's home directory", ruleCache},
	{"/home/*/.cache/**", "/.cache", "caches in a home directory", ruleCache},
}

// emptyOnes are files that package managers keep where their caches are, also when
// these are empty.
var emptyOnes = []string{"lock", "partial", "auxfiles", ".gitkeep", ".keep", "CACHEDIR.TAG", "CACHEDIR.tag"}

// cacheOf returns the cache that a file of that path and size belongs to, and the
// cache's directory.
func cacheOf(file string, size int64) (c cache, dir string, ok bool) {
	if size == 0 || !strings.Contains(file, "cache") && !strings.HasPrefix(file, "/var/lib/apt") && !strings.Contains(file, "/.npm/") ||
		slices.Contains(emptyOnes, path.Base(file)) {
		return cache{}, "", false
	}
	for _, c := range caches {
		if matches(c.pattern, file) {
			i := strings.Index(file, c.dir)
			return c, file[:i+len(c.dir)], true
		}
	}
	return cache{}, "", false
}
