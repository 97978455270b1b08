package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdentify(t *testing.T) {
	const (
		bsd = "Redistribution and use in source and binary forms, with or without\nmodification, are " +
			"permitted"
		mit    = "Permission is hereby granted, free of charge, to any person obtaining a copy"
		apache = "                              Apache License\n                        Version 2.0, " +
			"January 2004"
	)
	for text, want := range map[string]string{
		bsd: "BSD-2-Clause",
		bsd + "\n * Neither the name of Example nor the names of its contributors": "BSD-3-Clause",
		mit:                                  "MIT",
		apache:                               "Apache-2.0",
		apache + "\n" + mit:                  "Apache-2.0 AND MIT",
		"Mozilla Public License Version 2.0": "MPL-2.0",
		"All rights reserved.":               "",
	} {
		if got := identify(text); got != want {
			t.Errorf("%.40q: found %q, expected %q", text, got, want)
		}
	}
}

func TestThirdParty(t *testing.T) {
	newModule := func(path, licence string) module {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(licence), 0o644); err != nil {
			t.Fatal(err)
		}
		return module{Path: path, Version: "v1.0.0", Dir: dir}
	}
	const mit = "Permission is hereby granted, free of charge, to any person obtaining a copy"
	text, table, err := thirdParty([]module{newModule("a.example/a", mit), newModule("b.example/b", mit)},
		mit+" of Go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), mit); n != 2 {
		t.Errorf("expected Go's licence and one for both modules, found %d", n)
	}
	if !strings.Contains(string(text), "a.example/a v1.0.0\nb.example/b v1.0.0\nLicence: MIT\n") ||
		!strings.Contains(string(table), `"b.example/b@v1.0.0": "MIT"`) {
		t.Errorf("found\n%s\n%s", text, table)
	}
	if _, _, err := thirdParty([]module{newModule("c.example/c", "Do as you like.")}, mit); err == nil ||
		!strings.Contains(err.Error(), "unknown licence") {
		t.Errorf("an unknown licence: %v", err)
	}
}

// A package within a module that comes from somebody else has a licence of its own.
func TestLicenceOfAPackage(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "internal", "copied")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		filepath.Join(dir, "LICENSE"): "Apache License, Version 2.0",
		filepath.Join(inner, "LICENSE.txt"): "Permission is hereby granted, free of charge, to any person " +
			"obtaining a copy",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := module{Path: "a.example/a", Version: "v1.0.0", Dir: dir}
	if id, _, err := m.terms(); err != nil || id != "Apache-2.0" {
		t.Errorf("a package that is not linked: %q, %v", id, err)
	}
	m.packages = []string{dir, inner}
	if id, text, err := m.terms(); err != nil || id != "Apache-2.0 AND MIT" ||
		!strings.Contains(text, "internal/copied/LICENSE.txt:") {
		t.Errorf("found %q, %v\n%s", id, err, text)
	}
}
