package image_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/nitro-enclaves-bootstrap/neb/image"
	"github.com/nitro-enclaves-bootstrap/neb/initramfs"
)

// Write a container image as a ramdisk.
func Example() {
	ctx := context.Background()
	img, err := image.Open(ctx, "docker.io/library/alpine:3", image.Options{Arch: "x86_64"})
	if err != nil {
		log.Fatal(err)
	}
	defer img.Close()
	fmt.Println(img.Config().Config.Cmd)

	tree := image.NewTree("", image.Limits{})
	defer tree.Close()
	if err := tree.AddImage(ctx, img, "rootfs"); err != nil {
		log.Fatal(err)
	}
	f, err := os.Create("alpine.cpio")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	err = tree.WriteRamdisk(f, image.Ramdisk{Lost: func(path, what string) error {
		log.Printf("%s: %s", path, what)
		return nil
	}})
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleTree_Put() {
	tree := image.NewTree("", image.Limits{})
	defer tree.Close()
	for name, text := range map[string]string{"etc/motd": "hello\n", "app": "#!/bin/sh\n"} {
		err := tree.Put(&image.Entry{Path: name, Mode: initramfs.TypeFile | 0o644}, []byte(text))
		if err != nil {
			log.Fatal(err)
		}
	}
	err := tree.Walk(func(e *image.Entry) error {
		fmt.Printf("%06o %s %d\n", e.Mode, e.Path, e.Size)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 040755 etc 0
	// 100644 etc/motd 6
	// 100644 app 10
}
