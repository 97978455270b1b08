package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdentify(t *testing.T) {
	const (
		bsd    = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted"
		mit    = "Permission is hereby granted, free of charge, to any person obtaining a copy"
		apache = "                              Apache License\n                        Version 2.0, January 2004"
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
	text, table, err := thirdParty([]module{newModule("a.example/a", mit), newModule("b.example/b", mit)}, mit+" of Go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), mit); n != 2 {
		t.Errorf("expected Go's licence and one for both modules, found %d", n)
	}
	if !strings.Contains(string(text), "a.example/a v1.0.0\nb.example/b v1.0.0\nLicence: MIT\n") || !strings.Contains(string(table), `"b.example/b@v1.0.0": "MIT"`) {
		t.Errorf("found\n%s\n%s", text, table)
	}
	if _, _, err := thirdParty([]module{newModule("c.example/c", "Do as you like.")}, mit); err == nil || !strings.Contains(err.Error(), "no licence that is known here") {
		t.Errorf("an unknown licence: %v", err)
	}
}
