package layers

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestUnpack(t *testing.T) {
	text := bytes.Repeat([]byte("a layer"), 10_000)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	framed := e.EncodeAll(text, nil)
	for name, c := range map[string]struct{ packed, want []byte }{
		"plain": {text, text}, "short": {[]byte("x"), []byte("x")}, "empty": {nil, nil},
		"gzip": {zipped.Bytes(), text}, "zstd": {framed, text},
		"zstd behind a frame to be skipped": {append([]byte{0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'h', 'i'}, framed...), text},
	} {
		for way, r := range map[string]io.Reader{"whole": bytes.NewReader(c.packed), "byte by byte": iotest.OneByteReader(bytes.NewReader(c.packed))} {
			plain, err := Unpack(r)
			if err != nil {
				t.Fatalf("%s, %s: %v", name, way, err)
			}
			got, err := io.ReadAll(plain)
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("%s, %s: %d bytes (%v), want %d", name, way, len(got), err, len(c.want))
			}
			if err := plain.Close(); err != nil {
				t.Errorf("%s, %s: %v", name, way, err)
			}
		}
	}
	cable := errors.New("the cable is out")
	if _, err := Unpack(iotest.ErrReader(cable)); !errors.Is(err, cable) {
		t.Errorf("a source that fails: %v", err)
	}
	plain, err := Unpack(bytes.NewReader(framed[:len(framed)/2]))
	if err == nil {
		_, err = io.ReadAll(plain)
	}
	if err == nil {
		t.Error("half of a stream is taken for whole")
	}
}
