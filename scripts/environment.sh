# Sourced by the other scripts: an environment in .venv with the tested versions, and Fashion-MNIST in data/.

# make_environment [EXTRA]: .venv with the package and the extra; does nothing when it is there already.
make_environment() {
    local extra=${1:+[$1]} stamp
    stamp=.venv/made-with$extra
    if [ -x .venv/bin/python ] && cat setup.cfg pyproject.toml scripts/constraints.txt | cmp -s - "$stamp"; then
        return
    fi
    echo "Making .venv with the tested versions (scripts/constraints.txt); this takes a minute or two."
    local without_pip=--without-pip  # Debian keeps ensurepip in a package of its own: pip serves an environment without
    if python3 -c 'import ensurepip' 2>/dev/null; then without_pip=; fi
    python3 -m venv $without_pip .venv
    python3 -m pip --python .venv/bin/python install --quiet --disable-pip-version-check \
        --constraint scripts/constraints.txt --editable ".$extra"
    cat setup.cfg pyproject.toml scripts/constraints.txt >"$stamp"
}

# find_fashion_mnist: see that the images are on this machine; Debian's package needs neither root nor an installation.
# Without it the training script asks torchvision to download them.
find_fashion_mnist() {
    local name=train-images-idx3-ubyte place
    for place in data data/FashionMNIST/raw {data/,/}usr/share/datasets/fashion-mnist; do
        if [ -e "$place/$name.gz" ] || [ -e "$place/$name" ]; then return; fi
    done
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 0
    echo "Getting Fashion-MNIST from Debian's package dataset-fashion-mnist (31 MB)."
    mkdir -p data
    if (cd data && apt-get -qq -o APT::Sandbox::User=root download dataset-fashion-mnist); then
        dpkg -x data/dataset-fashion-mnist_*.deb data
    fi
    rm -f data/dataset-fashion-mnist_*.deb
}
