"""Serve the two measured routes with FastAPI, SQLAlchemy and aiosqlite.

Written as the documentation of FastAPI (dependencies with yield, response models) and
of SQLAlchemy (asyncio extension, PRAGMA on connect, eager `expire_on_commit=False`)
teaches it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, event, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What the tables have in common."""


class Customer(Base):
    """A customer."""

    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    address: Mapped[str | None]
    date_created: Mapped[str]


class Purchase(Base):
    """What a customer bought."""

    __tablename__ = "purchases"

    id: Mapped[int] = mapped_column(primary_key=True)
    purchase_name: Mapped[str]
    quantity: Mapped[int]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"), index=True)
    date_created: Mapped[str]
    last_updated: Mapped[str | None]


class NewPurchase(BaseModel):
    """The body that adds a purchase."""

    model_config = ConfigDict(extra="forbid", strict=True)

    purchase_name: str = Field(min_length=1, max_length=200, pattern=r"\S")
    quantity: int = Field(ge=1, le=2147483647)


class PurchaseListed(BaseModel):
    """A purchase in a list."""

    purchase_id: int
    purchase_name: str
    quantity: int
    purchased_on: str
    last_updated_on: str | None
    customer_id: str


class PurchasesListed(BaseModel):
    """The list of a customer's purchases."""

    status: str = "ok"
    data: list[PurchaseListed]


class PurchaseAdded(BaseModel):
    """The data of the reply to adding."""

    id: int
    purchase_name: str
    quantity: int
    customer_id: str
    purchased_on: str


class Added(BaseModel):
    """The reply to adding."""

    status: str = "ok"
    data: PurchaseAdded


engine = create_async_engine("sqlite+aiosqlite:///db.sqlite3")
new_session = async_sessionmaker(engine, expire_on_commit=False)


@event.listens_for(engine.sync_engine, "connect")
def set_pragmas(connection: Any, record: Any) -> None:
    """Make every commit durable, and let readers and the writer run side by side."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


async def get_session() -> AsyncIterator[AsyncSession]:
    """Give a request its session."""
    async with new_session() as session:
        yield session


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the tables, and close the connections at the end."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
CustomerId = Annotated[int, Path(ge=1, le=9223372036854775807)]
Session = Annotated[AsyncSession, Depends(get_session)]


@app.get("/api/v1/purchase/{customer_id}", response_model=PurchasesListed)
async def list_purchases(customer_id: CustomerId, session: Session) -> Any:
    """Return one customer's purchases."""
    if await session.get(Customer, customer_id) is None:
        raise HTTPException(404, "There is no such customer.")
    question = select(Purchase).where(Purchase.customer_id == customer_id)
    rows = await session.scalars(question.order_by(Purchase.id))
    data = [
        PurchaseListed(
            purchase_id=row.id,
            purchase_name=row.purchase_name,
            quantity=row.quantity,
            purchased_on=row.date_created,
            last_updated_on=row.last_updated,
            customer_id=str(row.customer_id),
        )
        for row in rows
    ]
    return PurchasesListed(data=data)


@app.post("/api/v1/purchase/{customer_id}", response_model=Added, status_code=201)
async def add_purchase(
    customer_id: CustomerId, item: NewPurchase, session: Session
) -> Any:
    """Record what a customer bought."""
    if await session.get(Customer, customer_id) is None:
        raise HTTPException(404, "There is no such customer.")
    now = datetime.now(UTC)
    purchase = Purchase(
        purchase_name=item.purchase_name,
        quantity=item.quantity,
        customer_id=customer_id,
        date_created=now.isoformat(" ", "microseconds"),
    )
    session.add(purchase)
    await session.commit()
    data = PurchaseAdded(
        id=purchase.id,
        purchase_name=purchase.purchase_name,
        quantity=purchase.quantity,
        customer_id=str(customer_id),
        purchased_on=now.strftime("%b %d %Y %H:%M:%S"),
    )
    return Added(data=data)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False)
