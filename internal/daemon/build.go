package daemon

import (
	"debug/elf"
	"encoding/binary"
	"net/netip"
	"strings"
)

// buildOf identifies what keeper and router are: the program by the identifier
// that Go's linker has put into it, and what it was started with. Two that have
// the same do the same. It is "" where the program bears none.
func buildOf(serviceNet netip.Prefix) string {
	id := linkedID("/proc/self/exe")
	if id == "" || !serviceNet.IsValid() {
		return id
	}
	return id + "+" + serviceNet.String()
}

// linkedID returns the build identifier of the program, or "".
func linkedID(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	section := f.Section(".note.go.buildid")
	if section == nil {
		return ""
	}
	note, err := section.Data()
	const head = 16 // lengths of name and content, type, "Go\0\0"
	if err != nil || len(note) < head {
		return ""
	}
	n := int(binary.LittleEndian.Uint32(note[4:]))
	if n > len(note)-head {
		return ""
	}
	// The last part is the hash of the content; the others are of the inputs.
	id := string(note[head : head+n])
	return id[strings.LastIndexByte(id, '/')+1:]
}
