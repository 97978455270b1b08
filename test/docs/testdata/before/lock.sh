# A store of the page's own: what it prunes is not that of whoever runs the tests.
NEB_CACHE=$PWD/store
export NEB_CACHE
