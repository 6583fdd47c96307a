// Package leaks looks into an image, before it is sealed, for what should not be
// in it: secrets and what builds leave behind (Search), and forms that a policy
// forbids (Structure). It reads layers as a stream, changes nothing, and tells
// nothing of a secret but its first characters and its length.
//
// # What is a finding
//
// Private keys, tokens of known shapes, files of credentials, the histories of
// shells, and secrets in the image's configuration are findings of severity
// Refuse: an image with one is not sealed until it is gone or a reviewed entry of
// the allow-list (see Allowed) says why it may stay. So are the caches of package
// managers (package-cache): they make an image larger and stale, and one line in
// the Containerfile keeps them out. What other programs left in a cache directory
// (cache) is of severity Warn: nobody can say that it is not needed. So is a key or
// a token in the tests, examples or manuals of a package, by its path: whoever has
// the package has it too.
//
// A file that a later layer deletes is still in the image, for whoever pulls it:
// such a finding says so and weighs the same.
//
// # What is not searched
//
// The inside of archives and of compressed files, text in other encodings than
// UTF-8 and its relatives, and layers that the image shares with its base, which
// were judged with the base.
//
// # Why the shapes are told here
//
// The shapes of tokens are those that their makers document. The libraries that
// know them were measured: gitleaks brings a command line, a terminal and a
// WebAssembly runtime with it; the detectors of osv-scalibr (veles) bring sixty
// modules and read 100 MB in a minute, as each of their expressions reads every
// byte. Here one pass looks for all literals at once (see matcher), and what is
// costly is done where one was found.
package leaks
