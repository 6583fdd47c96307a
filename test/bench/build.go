package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// builds measures an image after one source file has changed, ready to run.
func builds(ctx context.Context, b *bench) (*section, error) {
	d, err := b.engine(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.base(ctx, d); err != nil {
		return nil, err
	}
	dir, err := b.sources()
	if err != nil {
		return nil, err
	}
	file, err := b.declare(dir, "app", 1, "")
	if err != nil {
		return nil, err
	}
	var ours, theirs series
	for n := range b.rounds + 1 {
		took, err := b.timed(dir, n, "kiln", func() error {
			_, err := b.kiln.Run(ctx, "build", "-f", file)
			return err
		})
		if err != nil {
			return nil, err
		}
		their, err := b.timed(dir, n, "docker", func() error {
			_, err := d.run(ctx, "build", "-q", "-t", "app", "-f", filepath.Join(dir, "Containerfile"), dir)
			return err
		})
		if err != nil {
			return nil, err
		}
		if n > 0 { // the first has nothing to build on
			ours, theirs = append(ours, took), append(theirs, their)
		}
	}
	return &section{
		title: "An image after one changed source file",
		how: "200 files of 4 KiB on a Debian 12 base, copied after a RUN step; one file of them changed; the command line program from " +
			"start to end, until the image is ready to run (unpacked). Debian 12 has Docker without buildx, so its own builder builds.",
		rows: []row{compare("an image", "ms", ours, "docker build", theirs, 0.5, 0)},
	}, nil
}

// base gives kiln and Docker the same Debian 12.
func (b *bench) base(ctx context.Context, d *docker) error {
	tar := filepath.Join(b.dir, "debian.tar")
	if err := sh(ctx, "mmdebstrap", "--quiet", "--variant=minbase", "bookworm", tar); err != nil {
		return err
	}
	if _, err := b.kiln.Run(ctx, "images", "import", tar, "--name", "base/debian:12"); err != nil {
		return err
	}
	if _, err := d.run(ctx, "import", tar, "base/debian:12"); err != nil {
		return err
	}
	return os.Remove(tar)
}

// sources writes the context that is built.
func (b *bench) sources() (string, error) {
	dir := filepath.Join(b.dir, "app")
	text := "FROM base/debian:12\nRUN mkdir /srv/app\nCOPY src /srv/app\nCMD [\"sleep\", \"infinity\"]\n"
	if err := writeFile(filepath.Join(dir, "Containerfile"), text, 0o644); err != nil {
		return "", err
	}
	for n := range 200 {
		line := fmt.Sprintf("file %d\n", n)
		if err := writeFile(filepath.Join(dir, "src", fmt.Sprintf("%03d.txt", n)), strings.Repeat(line, 4096/len(line)), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// timed changes one file to what was never there and measures what follows.
func (b *bench) timed(dir string, n int, who string, f func() error) (float64, error) {
	changed := filepath.Join(dir, "src", fmt.Sprintf("%03d.txt", n))
	if err := writeFile(changed, fmt.Sprintf("%s %d %d\n", who, n, time.Now().UnixNano()), 0o644); err != nil {
		return 0, err
	}
	began := time.Now()
	err := f()
	return ms(time.Since(began)), err
}
