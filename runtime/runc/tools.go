//go:build tools

// Package runc pins the version of runc that kiln embeds. It is a module of
// its own, because runc needs cgo and other versions of shared modules than
// kiln does.
package runc

import _ "github.com/opencontainers/runc"
