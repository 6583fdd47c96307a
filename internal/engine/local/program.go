package local

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// lookCommand finds a command as a process in root would, and returns where it
// is seen from outside.
func lookCommand(root, cwd string, env []string, name string) (string, error) {
	if name == "" {
		return "", errors.New("the command is empty")
	}
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(cwd, name)
		}
		return executable(root, name)
	}
	search := variable(env, "PATH")
	for dir := range strings.SplitSeq(search, ":") {
		if !path.IsAbs(dir) {
			dir = path.Join(cwd, dir)
		}
		if found, err := executable(root, path.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("there is no such command in PATH=%s", search)
}

func executable(root, name string) (string, error) {
	found, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(found)
	switch {
	case err != nil:
		return "", fmt.Errorf("there is no file %s", name)
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory", name)
	case info.Mode().Perm()&0o111 == 0:
		return "", fmt.Errorf("%s is not executable (mode %s)", name, info.Mode().Perm())
	}
	return found, nil
}

var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "riscv64": elf.EM_RISCV,
	"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390,
}

// checkProgram finds out in advance what the kernel would only say when it is
// too late to tell: another machine's program, a loader or interpreter that is
// not in the image.
func checkProgram(root, program string) error {
	f, err := os.Open(program)
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil {
		return errors.New("it is too short to be a program")
	}
	switch {
	case string(magic[:2]) == "#!":
		return checkScript(root, f)
	case string(magic) == elf.ELFMAG:
		return checkELF(root, f)
	default:
		return errors.New("it is neither a binary of this machine nor a script: it does not begin with #! either")
	}
}

func checkScript(root string, f *os.File) error {
	line, err := bufio.NewReader(io.NewSectionReader(f, 2, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return errors.New("its first line names no interpreter")
	}
	if strings.HasSuffix(line, "\r\n") {
		return fmt.Errorf("its first line ends with a carriage return, so that its interpreter %q is not found", words[0]+"\r")
	}
	if _, err := executable(root, words[0]); err != nil {
		return fmt.Errorf("its interpreter is missing: %w", err)
	}
	return nil
}

func checkELF(root string, f *os.File) error {
	binary, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("it is a damaged binary: %w", err)
	}
	if want, known := machines[runtime.GOARCH]; known && binary.Machine != want {
		return fmt.Errorf("it is built for %s, this machine is %s", binary.Machine, runtime.GOARCH)
	}
	for _, p := range binary.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return err
		}
		loader := strings.TrimRight(string(b), "\x00")
		if _, err := executable(root, loader); err != nil {
			return fmt.Errorf("it is linked dynamically, and its loader %s is not in the image", loader)
		}
	}
	return nil
}
