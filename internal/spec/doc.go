// Package spec turns the declaration, kiln.hcl, into the model: which services
// there are, what their images are made from, and the template and policy of
// each. It is pure: the caller reads the file, and whoever parses the same
// bytes gets the same result.
//
// Whatever is wrong is said with file, line, column, the source line and, where
// one can be guessed, what was meant. All that can be found wrong is found in
// one go.
package spec
