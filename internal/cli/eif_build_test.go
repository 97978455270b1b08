package cli

import (
	"strings"
	"testing"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/images"
)

// TestImageWithoutPlatform builds an image whose configuration names no architecture: --arch decides.
func TestImageWithoutPlatform(t *testing.T) {
	f := newEIFFiles(t)
	layers := images.Layers(t, []images.Entry{images.File("app", "#!/bin/sh\n")})
	l := images.NewLayout(t)
	config := images.Config("", layers)
	delete(config, "architecture")
	l.Name(l.Manifest(l.JSON("application/vnd.oci.image.config.v1+json", config),
		[]images.Descriptor{l.Blob(string(images.Gzip), images.Gzip.Pack(t, layers[0]))}), "")
	status, out, errs := command("eif", "build", "--image", "oci:"+l.Dir(), "--arch", "x86_64",
		"--blobs", f.path("blobs"), "--nsm", "", "--output", f.path("x.eif"), "--allow", "command-permission")
	want := "the image's configuration names no architecture: taken for --arch x86_64"
	if status != 0 || !strings.Contains(out, "PCR0") || !strings.Contains(errs, want) {
		t.Errorf("status %d, %s%s, want 0 and %q", status, out, errs, want)
	}
}

// TestEntrypointOptions clears the image's ENTRYPOINT, as docker run --entrypoint "" does.
func TestEntrypointOptions(t *testing.T) {
	f := newEIFFiles(t)
	build := func(options ...string) (pcr2, errs string) {
		status, out, errs := command(append([]string{"eif", "build", "--rootfs", f.path("tree.tar"), "--arch", "x86_64",
			"--blobs", f.path("blobs"), "--nsm", "", "--output", f.path("x.eif")}, options...)...)
		if status != 0 {
			return "", errs
		}
		_, pcr2, _ = strings.Cut(out, `"PCR2": "`)
		return pcr2, ""
	}
	alone, errs := build("--cmd", "/hello")
	empty, errs2 := build("--entrypoint", "", "--cmd", "/hello")
	if alone == "" || alone != empty {
		t.Errorf("the registers are %q and %q; %s%s", alone, empty, errs, errs2)
	}
	if _, errs := build("--entrypoint", ""); !strings.Contains(errs, "neither an ENTRYPOINT nor a CMD") {
		t.Errorf("without a command: %s", errs)
	}
}
