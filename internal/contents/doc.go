// Package contents says what is inside an image: its packages, as a list and as
// SPDX and CycloneDX documents; how its files, packages and configuration differ
// from another image's; and which entries of a list of vulnerabilities hold for it.
//
// Images are read as streams of their layers, and nothing of them is trusted:
// every layer is compared with its digest, and bounds (Limits) hold for what it
// unpacks to. No contents of files are kept in memory.
package contents
